/*
 * Small forms of functions of glibc, for scripts/build-static.
 *
 * The static executable never sets a locale, has no stream of wide characters and prints no
 * floating-point number by the C library. It calls the C library's functions of strings only while it
 * starts, resolves names and formats errors. glibc contains each of them in up to seven versions for
 * different processors, and the code that reads message catalogues and character sets. These functions
 * do what glibc's do in the locale "C", and make the executable 300 KB smaller. The functions that are
 * called for every token (memcpy, memcmp, memset, memchr, strlen) stay glibc's.
 */
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <wchar.h>

#define ALIAS(name, of) extern __typeof__(of) name __attribute__((alias(#of)))

typedef unsigned char byte;

size_t strlen(const char *);

static int lower(byte c) { return c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c; }

int strncmp(const char *a, const char *b, size_t n) {
    for (; n && *a && *a == *b; n--) a++, b++;
    return n ? (byte)*a - (byte)*b : 0;
}

int strcmp(const char *a, const char *b) { return strncmp(a, b, (size_t)-1); }

int __strncasecmp(const char *a, const char *b, size_t n) {
    for (; n && *a && lower(*a) == lower(*b); n--) a++, b++;
    return n ? lower(*a) - lower(*b) : 0;
}
ALIAS(strncasecmp, __strncasecmp);

int __strncasecmp_l(const char *a, const char *b, size_t n, void *locale) {
    (void)locale;
    return __strncasecmp(a, b, n);
}
ALIAS(strncasecmp_l, __strncasecmp_l);

int __strcasecmp(const char *a, const char *b) { return __strncasecmp(a, b, (size_t)-1); }
ALIAS(strcasecmp, __strcasecmp);

int __strcasecmp_l(const char *a, const char *b, void *locale) {
    (void)locale;
    return __strcasecmp(a, b);
}
ALIAS(strcasecmp_l, __strcasecmp_l);

char *__stpcpy(char *to, const char *from) {
    while ((*to = *from)) to++, from++;
    return to;
}
ALIAS(stpcpy, __stpcpy);

char *strcpy(char *to, const char *from) {
    __stpcpy(to, from);
    return to;
}

char *strcat(char *to, const char *from) {
    __stpcpy(to + strlen(to), from);
    return to;
}

char *strncpy(char *to, const char *from, size_t n) {
    for (size_t i = 0; i < n; i++) to[i] = *from ? *from++ : '\0';
    return to;
}

char *__strchrnul(const char *s, int c) {
    while (*s && *s != (char)c) s++;
    return (char *)s;
}
ALIAS(strchrnul, __strchrnul);

char *strchr(const char *s, int c) {
    s = __strchrnul(s, c);
    return *s == (char)c ? (char *)s : NULL;
}
ALIAS(index, strchr);

char *strrchr(const char *s, int c) {
    const char *found = NULL;
    do {
        if (*s == (char)c) found = s;
    } while (*s++);
    return (char *)found;
}
ALIAS(rindex, strrchr);

size_t strspn(const char *s, const char *set) {
    const char *end = s;
    while (*end && strchr(set, *end)) end++;
    return (size_t)(end - s);
}

size_t strcspn(const char *s, const char *set) {
    const char *end = s;
    while (*end && !strchr(set, *end)) end++;
    return (size_t)(end - s);
}

char *strpbrk(const char *s, const char *set) {
    s += strcspn(s, set);
    return *s ? (char *)s : NULL;
}

char *strstr(const char *s, const char *wanted) {
    size_t n = strlen(wanted);
    for (; strncmp(s, wanted, n); s++)
        if (!*s) return NULL;
    return (char *)s;
}

size_t __strnlen(const char *s, size_t n) {
    size_t length = 0;
    while (length < n && s[length]) length++;
    return length;
}
ALIAS(strnlen, __strnlen);

void *__rawmemchr(const void *s, int c) {
    const byte *p = s;
    while (*p != (byte)c) p++;
    return (void *)p;
}
ALIAS(rawmemchr, __rawmemchr);

/* Texts of errors: in the locale "C" no catalogue is read. */
char *__dcigettext(const char *domain, const char *one, const char *many, int plural, unsigned long n,
                   int category) {
    (void)domain, (void)category;
    return (char *)(plural && n != 1 ? many : one);
}

#ifndef STRINGS_ONLY /* What follows replaces internal functions, which can differ in another glibc. */

/* Characters outside of ASCII are invalid in the locale "C". */
size_t __mbrtowc(wchar_t *to, const char *s, size_t n, mbstate_t *state) {
    (void)state;
    if (!s) return 0;
    if (!n) return (size_t)-2;
    if ((byte)*s > 0x7f) {
        errno = EILSEQ;
        return (size_t)-1;
    }
    if (to) *to = *s;
    return *s != '\0';
}
ALIAS(mbrtowc, __mbrtowc);

/* Conversions of other characters: printf calls them for %ls, fopen for "ccs=". They fail as for a
 * character that the locale does not have. */
static size_t no_conversion(void) {
    errno = EILSEQ;
    return (size_t)-1;
}
ALIAS(__wcrtomb, no_conversion);
ALIAS(__wcsrtombs, no_conversion);
ALIAS(__mbsrtowcs, no_conversion);

/* Output that never happens: of floating-point numbers, and to streams of wide characters. */
static int no_output(void) {
    errno = EINVAL;
    return -1;
}
ALIAS(__printf_fp, no_output);
ALIAS(__printf_fphex, no_output);
ALIAS(__vfwprintf_internal, no_output);
ALIAS(_IO_wdo_write, no_output);
ALIAS(__libio_codecvt_encoding, no_output);
ALIAS(__wcsmbs_named_conv, no_output);

/* Streams are always of bytes. */
int _IO_fwide(FILE *stream, int mode) {
    if (mode < 0 && stream->_mode == 0) stream->_mode = -1;
    return stream->_mode;
}

/* Frees what only streams of wide characters and loaded locales have. */
static void nothing(void) {}
ALIAS(_IO_free_wbackup_area, nothing);
ALIAS(_IO_wsetb, nothing);
ALIAS(__gconv_release_step, nothing);
ALIAS(_nl_cleanup_ctype, nothing);

/* Tables and a lock that only the functions above would use. */
const void *const _IO_wfile_jumps[21] = {NULL};
ALIAS(_IO_wfile_jumps_mmap, _IO_wfile_jumps);
ALIAS(_IO_wfile_jumps_maybe_mmap, _IO_wfile_jumps);
const void *const __wcsmbs_gconv_fcts_c[4] = {NULL};
int __gconv_lock;

#endif
