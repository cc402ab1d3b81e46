// bfloat16 as a storage type.
#pragma once

#include <bit>

#include "cuda_runtime.h"

struct __nv_bfloat16_raw {
    unsigned short x;
};
struct __nv_bfloat16 {
    unsigned short bits;
    __nv_bfloat16() = default;
    __nv_bfloat16(__nv_bfloat16_raw raw) : bits(raw.x) {}
    operator __nv_bfloat16_raw() const { return {bits}; }
};

inline float __bfloat162float(__nv_bfloat16 x) {
    return std::bit_cast<float>(static_cast<unsigned>(x.bits) << 16);
}
// To nearest even; a NaN becomes the one that the device makes.
inline __nv_bfloat16 __float2bfloat16_rn(float x) {
    const unsigned bits = std::bit_cast<unsigned>(x);
    const unsigned rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
    return __nv_bfloat16_raw{static_cast<unsigned short>(x != x ? 0x7fffu : rounded)};
}
inline __nv_bfloat16 __float2bfloat16(float x) { return __float2bfloat16_rn(x); }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) { return __nv_bfloat16_raw{bits}; }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 x) { return x.bits; }
