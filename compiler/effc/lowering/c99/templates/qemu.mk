
self_test.elf: $(TEST) $(HEADERS) test_vectors.h qemu/start.c qemu/board.ld build_flags.txt
	$(TARGET_CC) $(FLAGS) $(TARGET_CFLAGS) $(TEST) qemu/start.c -o $@ -nostartfiles -Tqemu/board.ld -Wl,--gc-sections

qemu: self_test.elf
	@EMULATOR@ self_test.elf || { status=$$?; echo "self-test FAILED, status $$status: $(STATUS)" >&2; exit $$status; }
	@echo "@PASSED@"
