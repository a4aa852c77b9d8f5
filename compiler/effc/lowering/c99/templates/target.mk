
TARGET_CC = @COMPILER@
TARGET_FLAGS = @FLAGS@
@SPECS@
target:
	$(MAKE) -B CC="$(TARGET_CC)" CFLAGS="$(CFLAGS) $(TARGET_FLAGS)@LIBRARY@" AR="$(TARGET_CC:%gcc=%ar)" @PREFIX@.a

self_test.elf: $(TEST) $(HEADERS) test_vectors.h qemu/start.c qemu/board.ld
	$(TARGET_CC) $(FLAGS) $(CFLAGS) $(TARGET_FLAGS)@LIBRARY@ $(TEST) qemu/start.c -o $@ -nostartfiles -Tqemu/board.ld -Wl,--gc-sections

qemu: self_test.elf
	@EMULATOR@ self_test.elf
