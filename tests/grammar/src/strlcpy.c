/* libpg_query takes strlcpy from the C library; that of glibc before 2.38 has none. */
#include <string.h>

__attribute__((weak)) size_t strlcpy(char *to, const char *from, size_t size) {
    size_t length = strlen(from);
    if (size > 0) {
        size_t copied = length < size ? length : size - 1;
        memcpy(to, from, copied);
        to[copied] = 0;
    }
    return length;
}
