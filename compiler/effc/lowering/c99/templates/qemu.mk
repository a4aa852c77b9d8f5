
self_test.elf: $(TEST) $(HEADERS) test_vectors.h qemu/start.c qemu/board.ld build_flags.txt
	$(CC) $(FLAGS) $(CFLAGS) $(TEST) qemu/start.c -o $@ -nostartfiles -Tqemu/board.ld -Wl,--gc-sections

qemu:
	$(MAKE) $(WITH_TARGET) self_test.elf
	@EMULATOR@ self_test.elf
	@echo "@PASSED@"
