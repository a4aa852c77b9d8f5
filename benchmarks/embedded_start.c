/* Starts a program on a Cortex-M board of QEMU, and counts instructions from kernel to kernel.

   The counter is the board's 32-bit timer of 25 MHz. Under `-icount shift=6` an instruction takes 64 ns, which are 1.6 ticks. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "embedded_start.h"

#define TIMER ((volatile uint32_t *)0x40000000u) /* control, value, reload; it counts down */
#define MOST_CALLS 4096u

extern uint32_t data_start, data_end, data_load, __bss_start__, __bss_end__, stack_top;
extern int main(void);
extern void initialise_monitor_handles(void);
void start(void);
void _init(void);
void _fini(void);

call_record calls[MOST_CALLS];
uint32_t call_count;
static uint32_t depth, entered;

void _init(void) {}
void _fini(void) {}

static void stop(void) {
  exit(99);
}

void start(void) {
  *(volatile uint32_t *)0xE000ED88u |= 0xFu << 20; /* the floating-point unit */
  __asm volatile("dsb\n isb");
  memcpy(&data_start, &data_load, (size_t)((char *)&data_end - (char *)&data_start));
  memset(&__bss_start__, 0, (size_t)((char *)&__bss_end__ - (char *)&__bss_start__));
  TIMER[2] = UINT32_MAX;
  TIMER[1] = UINT32_MAX;
  TIMER[0] = 1;
  initialise_monitor_handles();
  exit(main());
}

uint32_t ticks(void) {
  return UINT32_MAX - TIMER[1];
}

/* gcc calls these around every function of the code under test, which is built with -finstrument-functions. */
void __cyg_profile_func_enter(void *function, void *site);
void __cyg_profile_func_exit(void *function, void *site);

void __cyg_profile_func_enter(void *function, void *site) {
  (void)site;
  if (++depth == 2 && call_count < MOST_CALLS) {
    calls[call_count].function = (uint32_t)function;
    entered = ticks();
  }
}

void __cyg_profile_func_exit(void *function, void *site) {
  const uint32_t now = ticks();
  (void)function;
  (void)site;
  if (depth-- == 2 && call_count < MOST_CALLS) {
    calls[call_count++].ticks = now - entered;
  }
}

__attribute__((section(".vectors"), used)) static void *const vectors[16] = {
    &stack_top, (void *)start, stop, stop, stop, stop, stop, 0, 0, 0, 0, stop, stop, 0, stop, stop};
