"""The names that a shared library of ELF defines for others; tools that read it are not installed everywhere."""

from __future__ import annotations

import struct

__all__ = ["dynamic_symbols"]

_DYNSYM = 11  # a section's type


def dynamic_symbols(content: bytes) -> frozenset[str]:
    """Names of the dynamic symbols that are defined, of any processor (System V ABI, chapters 4 and 5). Raises ValueError for no ELF."""
    if content[:4] != b"\x7fELF" or len(content) < 52:
        raise ValueError("no ELF file")
    wide, order = content[4] == 2, "<" if content[5] == 1 else ">"
    place, entry, count = (0x28, 0x3A, 0x3C) if wide else (0x20, 0x2E, 0x30)
    (start,) = struct.unpack_from(order + ("Q" if wide else "I"), content, place)
    (size,), (number,) = struct.unpack_from(order + "H", content, entry), struct.unpack_from(order + "H", content, count)
    # sh_name, sh_type, sh_flags, sh_addr, sh_offset, sh_size, sh_link, sh_info, sh_addralign, sh_entsize
    header = order + ("IIQQQQIIQQ" if wide else "IIIIIIIIII")
    sections = [struct.unpack_from(header, content, start + index * size) for index in range(number)]
    found = set()
    for section in sections:
        if section[1] != _DYNSYM:
            continue
        names = sections[section[6]][4]
        # st_name, st_info, st_other, st_shndx, st_value, st_size; 32-bit: st_name, st_value, st_size, st_info, st_other, st_shndx
        layout, where = (order + "IBBHQQ", 3) if wide else (order + "IIIBBH", 5)
        for offset in range(section[4], section[4] + section[5], section[9]):
            symbol = struct.unpack_from(layout, content, offset)
            if symbol[0] and symbol[where]:
                end = content.index(b"\0", names + symbol[0])
                found.add(content[names + symbol[0] : end].decode("ascii", "replace"))
    return frozenset(found)
