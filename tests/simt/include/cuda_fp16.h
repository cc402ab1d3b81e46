// float16 as a storage type.
#pragma once

#include <bit>

#include "cuda_runtime.h"

struct __half_raw {
    unsigned short x;
};
struct __half {
    _Float16 value;
    __half() = default;
    __half(__half_raw raw) : value(std::bit_cast<_Float16>(raw.x)) {}
    operator __half_raw() const { return {std::bit_cast<unsigned short>(value)}; }
};
using half = __half;

inline float __half2float(__half x) { return static_cast<float>(x.value); }
// To nearest even; a NaN becomes the one that the device makes.
inline __half __float2half_rn(float x) {
    return __half_raw{x != x ? static_cast<unsigned short>(0x7fff)
                             : std::bit_cast<unsigned short>(static_cast<_Float16>(x))};
}
inline __half __float2half(float x) { return __float2half_rn(x); }
inline __half __ushort_as_half(unsigned short bits) { return __half_raw{bits}; }
inline unsigned short __half_as_ushort(__half x) { return static_cast<__half_raw>(x).x; }
