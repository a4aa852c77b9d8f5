/* Starts the self-test on a Cortex-M board of QEMU: memory, the floating-point unit, main, whose result becomes QEMU's exit status. */
#include <stdint.h>
#include <string.h>

extern uint32_t effc_data_start[], effc_data_end[], effc_data_load[], effc_bss_start[], effc_bss_end[], effc_stack[];
int main(void);
void effc_start(void);

/* The semihosting call SYS_EXIT_EXTENDED. */
static void leave(uint32_t status) {
  const uint32_t block[2] = {0x20026u, status};
  register uint32_t operation __asm__("r0") = 0x20u;
  register const uint32_t *argument __asm__("r1") = block;
  __asm__ volatile("bkpt 0xAB" : : "r"(operation), "r"(argument) : "memory");
  for (;;) {
  }
}

void effc_start(void) {
#if defined(__ARM_FP)
  *(volatile uint32_t *)0xE000ED88u |= 0xFu << 20; /* CPACR: full access to coprocessors 10 and 11 */
  __asm__ volatile("dsb\n\tisb" : : : "memory");
#endif
  memcpy(effc_data_start, effc_data_load, (size_t)(effc_data_end - effc_data_start) * sizeof(uint32_t));
  memset(effc_bss_start, 0, (size_t)(effc_bss_end - effc_bss_start) * sizeof(uint32_t));
  leave((uint32_t)main());
}

/* Any exception: the self-test could not run. */
static void fault(void) {
  leave(2);
}

typedef struct {
  uint32_t *stack;
  void (*handlers[15])(void);
} vectors;

extern const vectors effc_vectors;
const vectors effc_vectors __attribute__((section(".vectors"), used)) = {
    effc_stack,
    {effc_start, fault, fault, fault, fault, fault, fault, 0, 0, 0, fault, fault, 0, fault, fault},
};
