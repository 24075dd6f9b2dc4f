/* Assertions: conditions that the code itself relies on.  A false one is a bug of this package and
 * ends the process.
 *
 * Only own invariants: data from a peer or a file is validated, and invalid data is an error.  The
 * builds that users get define NDEBUG and contain no assertion; debug and sanitizer builds, and
 * with them `make test SANITIZE=1`, contain all of them.  In Cython code the line is that of the
 * .pyx file, since all builds ask Cython for line directives (meson.build).
 */
#ifndef RFP_CORE_ASSERT_H
#define RFP_CORE_ASSERT_H

#ifdef NDEBUG
/* Still compiled, so that it cannot rot, but never evaluated. */
#define RFP_ASSERT(condition) ((void)sizeof((condition) ? 1 : 0))
#else
#include <stdlib.h>
#include <unistd.h>

#define RFP_ASSERT(condition) \
    ((condition) ? (void)0 : rfp_assertion_failed(__FILE__, __LINE__, #condition))

/* A function of the sanitizers; NULL in a build without them. */
extern void __sanitizer_print_stack_trace(void) __attribute__((weak));

/* One write(), the stack if a sanitizer is loaded, and abort(): a thread without the GIL may call
 * it; without a sanitizer a signal handler, too. */
__attribute__((noreturn, noinline, cold, unused)) static void
rfp_assertion_failed(const char *file, int line, const char *condition)
{
    char text[512], digits[12];
    const char *parts[5] = {file, ":", digits, ": assertion failed: ", condition};
    size_t length = 0;
    int i = sizeof(digits) - 1;
    digits[i] = 0;
    for (unsigned left = (unsigned)line; i > 0 && (left || !digits[i]); left /= 10)
        digits[--i] = (char)('0' + left % 10);
    parts[2] = digits + i;
    for (int part = 0; part < 5; part++)
        for (const char *from = parts[part]; *from && length < sizeof(text) - 1; from++)
            text[length++] = *from;
    text[length++] = '\n';
    if (write(STDERR_FILENO, text, length) < 0) {
        /* abort() follows in any case */
    }
    if (__sanitizer_print_stack_trace)
        __sanitizer_print_stack_trace();
    abort();
}
#endif

#endif
