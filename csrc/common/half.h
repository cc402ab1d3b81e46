// Storage types float16 and bfloat16: converted to float32 for every sum, rounded to nearest even on the way
// back. Subnormal numbers are kept and a NaN stays a NaN. On a GPU a conversion is one instruction; elsewhere
// it is branch-free, so that loops over them vectorise. No hardware type is needed.
#pragma once

#include <cstdint>
#include <cstring>

// Always inlined: these functions are compiled once per instruction set, and a shared out-of-line copy could
// be any of them.
#ifdef __CUDACC__
#define INTEGRALROB_INLINE __host__ __device__ __forceinline__
#else
#define INTEGRALROB_INLINE inline __attribute__((always_inline))
#endif

// The conversions to and from bfloat16 came with architecture 8.0.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
#define INTEGRALROB_CONVERT_INSTRUCTIONS
#endif

namespace integralrob {

template <typename To, typename From>
INTEGRALROB_INLINE To bit_cast(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof(To));
    return to;
}

struct Half {
    uint16_t bits;
};

struct BFloat16 {
    uint16_t bits;
};

// The type that sums and band weights are held in.
template <typename T>
struct Arithmetic {
    using type = float;
};
template <>
struct Arithmetic<double> {
    using type = double;
};
template <typename T>
using arithmetic_t = typename Arithmetic<T>::type;

INTEGRALROB_INLINE float widen(float x) { return x; }
INTEGRALROB_INLINE double widen(double x) { return x; }

INTEGRALROB_INLINE float widen(BFloat16 x) { return bit_cast<float>(static_cast<uint32_t>(x.bits) << 16); }

INTEGRALROB_INLINE float widen(Half x) {
#ifdef INTEGRALROB_CONVERT_INSTRUCTIONS
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(x.bits));
    return wide;
#else
    const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16;
    // Exponent and mantissa in place, the exponent rebiased by 127 - 15.
    const uint32_t shifted = static_cast<uint32_t>(x.bits & 0x7fffu) << 13;
    const uint32_t normal = shifted + 0x38000000u;
    // Subnormal: 2^-14 · (1 + mantissa) less 2^-14. No subnormal float32 on the way, which the machine may be
    // told to flush.
    const uint32_t subnormal =
        bit_cast<uint32_t>(bit_cast<float>(shifted + 0x38800000u) - bit_cast<float>(0x38800000u));
    const uint32_t special = shifted | 0x7f800000u;
    return bit_cast<float>((shifted >= 0x0f800000u  ? special
                            : shifted < 0x00800000u ? subnormal
                                                    : normal) |
                           sign);
#endif
}

template <typename T>
INTEGRALROB_INLINE T narrow(arithmetic_t<T> x) {
    return x;
}

template <>
INTEGRALROB_INLINE BFloat16 narrow<BFloat16>(float x) {
#ifdef INTEGRALROB_CONVERT_INSTRUCTIONS
    BFloat16 rounded;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(rounded.bits) : "f"(x));
    return rounded;
#else
    const uint32_t bits = bit_cast<uint32_t>(x);
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const uint32_t nan = (bits >> 16) | 0x0040u;
    return {static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded)};
#endif
}

template <>
INTEGRALROB_INLINE Half narrow<Half>(float x) {
#ifdef INTEGRALROB_CONVERT_INSTRUCTIONS
    Half rounded;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(rounded.bits) : "f"(x));
    return rounded;
#else
    const uint32_t bits = bit_cast<uint32_t>(x);
    const uint32_t sign = (bits >> 16) & 0x8000u;
    const uint32_t magnitude = bits & 0x7fffffffu;
    // Normal numbers: rebias the exponent by 15 - 127 and round the 13 dropped bits to nearest even.
    const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    // Subnormal results: adding 0.5 lets the float adder align and round the mantissa.
    const uint32_t subnormal = bit_cast<uint32_t>(bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
    const uint32_t special = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
    const uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
    return {static_cast<uint16_t>((magnitude >= 0x47800000u ? special : finite) | sign)};
#endif
}

#undef INTEGRALROB_CONVERT_INSTRUCTIONS

}  // namespace integralrob
