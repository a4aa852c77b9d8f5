/* A block of weights. `last` is the size of an element less one: numbers are read from their least significant byte on, on any processor. */
typedef struct {
  const void *data;
  uint32_t bytes, crc;
  uint32_t last;
} effc_block;

static const effc_block effc_blocks[] = {
@ROWS@
};

/* CRC-32 (that of zlib), four bits at a time. The bytes are volatile: they shall be read from memory, now. */
static uint32_t effc_crc32(const volatile uint8_t *bytes, uint32_t count, uint32_t swap) {
  static const uint32_t table[16] = {0x00000000u, 0x1db71064u, 0x3b6e20c8u, 0x26d930acu, 0x76dc4190u, 0x6b6b51f4u,
                                     0x4db26158u, 0x5005713cu, 0xedb88320u, 0xf00f9344u, 0xd6d6a3e8u, 0xcb61b38cu,
                                     0x9b64c2b0u, 0x86d3d2d4u, 0xa00ae278u, 0xbdbdf21cu};
  uint32_t crc = 0xffffffffu;
  for (uint32_t i = 0; i < count; ++i) {
    crc ^= bytes[i ^ swap];
    crc = (crc >> 4) ^ table[crc & 15u];
    crc = (crc >> 4) ^ table[crc & 15u];
  }
  return ~crc;
}

int32_t @PREFIX@_check_weights(void) {
  const uint16_t one = 1;
  uint8_t first;
  memcpy(&first, &one, 1);
  for (int32_t i = 0; i < (int32_t)@MACRO@_WEIGHT_BLOCKS; ++i) {
    const effc_block *block = &effc_blocks[i];
    if (effc_crc32((const volatile uint8_t *)block->data, block->bytes, first == 1 ? 0u : block->last) != block->crc) {
      return 1 + i;
    }
  }
  return 0;
}
