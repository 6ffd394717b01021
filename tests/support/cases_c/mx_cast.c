/* A cast to fp8_e4m3 or fp4_e2m1 with E8M0 scales, rule floor, rounded to even: reads cases on its standard
   input, writes results on its standard output. Written from docs/cases.md and OCP MX v1.0 alone.
   -D NAME builds a wrong one: see FAULTS in tests/support/case_programs.py. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef TIES_AWAY
#define UP(rest, half, steps) ((rest) >= (half))
#elif defined TOWARD_ZERO
#define UP(rest, half, steps) (0 * (rest) * (half))
#else
#define UP(rest, half, steps) ((rest) > (half) || ((rest) == (half) && ((steps) & 1)))
#endif

static int mantissa_bits = 3, emax = 8, bias = 7, top_code = 0x7e, sign_bit = 0x80; /* of E4M3 */

/* The bits of an input as fp32; exact. */
static uint32_t fp32_bits(const uint8_t *x, uint64_t dtype, uint64_t at)
{
    uint32_t wide;
    uint16_t half;
    if (dtype == 1) {
        memcpy(&wide, x + 4 * at, 4);
        return wide;
    }
    memcpy(&half, x + 2 * at, 2);
    if (dtype == 2)
        return (uint32_t)half << 16;
    uint32_t sign = (uint32_t)(half >> 15) << 31, exponent = half >> 10 & 31, fraction = half & 1023;
    if (exponent == 31)
        return sign | 0x7f800000u | fraction << 13;
    if (!exponent && !fraction)
        return sign;
    if (!exponent)
        for (exponent = 1; !(fraction & 1024); exponent--)
            fraction <<= 1;
    return sign | (exponent + 112) << 23 | (fraction & 1023) << 13;
}

/* floor(log2(magnitude)) of a finite number that is not zero, from its fp32 bits. */
static int exponent_of(uint32_t magnitude)
{
    if (magnitude >> 23)
        return (int)(magnitude >> 23) - 127;
    int exponent = -127;
    for (; !(magnitude & 0x400000); exponent--)
        magnitude <<= 1;
    return exponent;
}

/* The code of a finite number over 2^scale, in whole numbers. */
static uint8_t code_of(uint32_t bits, int scale)
{
    uint32_t magnitude = bits & 0x7fffffffu;
    uint8_t sign = bits >> 31 ? (uint8_t)sign_bit : 0;
#ifdef NO_NEGATIVE_ZERO
    if (!magnitude)
        sign = 0;
#endif
    if (!magnitude)
        return sign;
    uint64_t m = magnitude >> 23 ? (magnitude & 0x7fffff) | 0x800000 : magnitude;
    int of_m = (magnitude >> 23 ? (int)(magnitude >> 23) : 1) - 150 - scale; /* the number is m * 2^of_m */
    int exponent = exponent_of(magnitude) - scale, emin = 1 - bias;
#ifdef FLUSH_SUBNORMAL
    if (exponent < emin)
        return sign;
#endif
    int right = (exponent > emin ? exponent : emin) - mantissa_bits - of_m; /* log2 of an element's step / 2^of_m */
    uint64_t steps = right > 40 ? 0 : right <= 0 ? m << -right : m >> right;
    if (right > 0 && right <= 40) {
        uint64_t rest = m & ((UINT64_C(1) << right) - 1), half = UINT64_C(1) << (right - 1);
        steps += UP(rest, half, steps);
    }
    uint64_t code = steps + ((uint64_t)(exponent > emin ? exponent - emin : 0) << mantissa_bits);
    return sign | (uint8_t)(code > (uint64_t)top_code ? (uint64_t)top_code : code);
}

/* Codes and the scale of one block: n numbers, `stride` elements from each other. */
static uint8_t cast_block(const uint8_t *x, uint64_t dtype, uint64_t at, uint64_t stride, uint64_t n, uint8_t *codes)
{
    uint32_t amax = 0;
    for (uint64_t i = 0; i < n; i++) {
        uint32_t magnitude = fp32_bits(x, dtype, at + i * stride) & 0x7fffffffu;
        amax = magnitude > amax ? magnitude : amax;
    }
    int scale = amax ? exponent_of(amax) - emax : -127;
#ifdef CEIL
    scale += amax && (amax & 0x7fffff);
#endif
    scale = scale < -127 ? -127 : scale > 127 ? 127 : scale;
    for (uint64_t i = 0; i < n; i++)
        codes[at + i * stride] = amax >= 0x7f800000u ? 0 : code_of(fp32_bits(x, dtype, at + i * stride), scale);
    return amax >= 0x7f800000u ? 0xff : (uint8_t)(scale + 127); /* with NaN or Inf in it, a block is NaN */
}

static void take(void *into, size_t size)
{
    if (size && fread(into, size, 1, stdin) != 1)
        exit(2);
}

int main(void)
{
    struct { /* 256 bytes */
        char magic[8];
        uint64_t version;
        uint8_t digest[32];
        uint64_t cases, bytes;
        char format[16], scale_rule[16], rounding[16], nonfinite[16], level[16];
        uint64_t dtypes, ragged, least_rows, most_rows, rows_multiple, least_columns, most_columns;
        uint64_t columns_multiple, most_inner, most_elements, block_sizes[4];
    } h;
    struct { /* 128 bytes */
        uint64_t number, dtype, block_size, outer, columns, inner, bytes;
        char group[72];
    } c;

    take(&h, sizeof h);
    if (memcmp(h.magic, "MXCASES\n", 8) || h.version != 1)
        return 2;
    int e4m3 = !strcmp(h.format, "fp8_e4m3"), e2m1 = !strcmp(h.format, "fp4_e2m1");
    int mine = (e4m3 || e2m1) && !strcmp(h.scale_rule, "floor") && !strcmp(h.rounding, "even")
               && !strcmp(h.nonfinite, "block");
    if (e2m1)
        mantissa_bits = 1, emax = 2, bias = 1, top_code = 7, sign_bit = 8;

    fwrite("MXRESULT", 8, 1, stdout);       /* then version, digest and number of cases: */
    fwrite((char *)&h + 8, 48, 1, stdout); /* as they stand in the header of the cases */
    for (uint64_t k = 0; k < h.cases; k++) {
        take(&c, sizeof c);
        uint8_t *x = malloc(c.bytes);
        take(x, c.bytes);
        if (!mine) {
            const char *why = "only fp8_e4m3 and fp4_e2m1, floor, to even";
            uint64_t refusal[3] = {c.number, 0, strlen(why)};
            fwrite(refusal, sizeof refusal, 1, stdout);
            fwrite(why, strlen(why), 1, stdout);
            free(x);
            continue;
        }
        uint64_t blocks = (c.columns + c.block_size - 1) / c.block_size, rest = c.columns % c.block_size;
        uint64_t elements = c.outer * c.columns * c.inner, scales = c.outer * blocks * c.inner;
        uint8_t *codes = malloc(elements + scales), *scale = codes + elements;
        for (uint64_t o = 0; o < c.outer; o++)
            for (uint64_t b = 0; b < blocks; b++)
                for (uint64_t i = 0; i < c.inner; i++)
                    scale[(o * blocks + b) * c.inner + i] = cast_block(
                        x, c.dtype, (o * c.columns + b * c.block_size) * c.inner + i, c.inner,
                        b == blocks - 1 && rest ? rest : c.block_size, codes);
#ifdef SECOND_BLOCK
        if (c.dtype == 2 && c.inner == 1 && blocks > 1)
            scale[1] = scale[0];
#endif
#ifdef LAST_BIT_OF_FP16
        if (c.dtype == 4)
            codes[elements - 1] ^= 1;
#endif
#ifdef CRASHES
        if (c.dtype == 1 && c.columns > 4096)
            abort();
#endif
        uint64_t answer[3] = {c.number, 1, elements + scales};
        fwrite(answer, sizeof answer, 1, stdout);
        fwrite(codes, elements + scales, 1, stdout);
        free(codes);
        free(x);
    }
    return 0;
}
