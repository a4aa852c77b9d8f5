/* What the self-test prints with, where there is no C library; see library.c. */
#pragma once
#include <stddef.h>

typedef int FILE; /* a file descriptor */
extern FILE effc_stderr;
#define stderr (&effc_stderr)

int printf(const char *format, ...);
int fprintf(FILE *file, const char *format, ...);
int fputs(const char *text, FILE *file);
int fputc(int letter, FILE *file);
