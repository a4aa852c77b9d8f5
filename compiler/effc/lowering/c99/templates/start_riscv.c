/* Starts the self-test on QEMU's RISC-V machine `virt`: stack, memory, main, whose result becomes QEMU's exit status. */
#include <stdint.h>
#include <string.h>

extern uint32_t effc_data_start[], effc_data_end[], effc_data_load[], effc_bss_start[], effc_bss_end[];
int main(void);
void effc_start(void);

__asm__(
    ".section .vectors, \"ax\"\n"
    ".globl effc_reset\n"
    "effc_reset:\n"
    "  .option push\n"
    "  .option norelax\n"
    "  la gp, __global_pointer$\n"
    "  .option pop\n"
    "  la sp, effc_stack\n"
    "  la t0, effc_fault\n"
    "  .word 0x30529073\n" /* csrw mtvec, t0: assemblers take it for a processor with Zicsr only */
    "  j effc_start\n"
    ".balign 4\n"
    "effc_fault:\n"
    "  li a0, 0x23333\n" /* any exception: the self-test could not run */
    "  li t0, 0x100000\n"
    "  sw a0, 0(t0)\n"
    "1: j 1b\n"
    ".text\n");

void effc_start(void) {
  memcpy(effc_data_start, effc_data_load, (size_t)(effc_data_end - effc_data_start) * sizeof(uint32_t));
  memset(effc_bss_start, 0, (size_t)(effc_bss_end - effc_bss_start) * sizeof(uint32_t));
  const uint32_t status = (uint32_t)main();
  *(volatile uint32_t *)0x100000u = status == 0u ? 0x5555u : (status << 16) | 0x3333u; /* the board's test device */
  for (;;) {
  }
}
