// What kernels call.
#pragma once

#include <math.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "simt/simt.h"

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

// ------------------------------------------------------------------------------------------ barriers, fences

inline void __syncthreads(simt::Place place = simt::Place::current()) { simt::block_barrier(0, place); }
inline int __syncthreads_count(int predicate, simt::Place place = simt::Place::current()) {
    return simt::block_barrier(predicate, place).positive;
}
inline int __syncthreads_or(int predicate, simt::Place place = simt::Place::current()) {
    return simt::block_barrier(predicate, place).positive > 0;
}
inline int __syncthreads_and(int predicate, simt::Place place = simt::Place::current()) {
    const simt::Votes votes = simt::block_barrier(predicate, place);
    return votes.positive == votes.all;
}
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}

// ------------------------------------------------------------------------------------------ warp collectives

inline void __syncwarp(unsigned mask = 0xffffffffu, simt::Place place = simt::Place::current()) {
    simt::collective(simt::Collective::barrier, "__syncwarp", mask, 0, 0, place);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, simt::Place place = simt::Place::current()) {
    return static_cast<unsigned>(
        simt::collective(simt::Collective::ballot, "__ballot_sync", mask, predicate != 0, 0, place));
}
inline int __any_sync(unsigned mask, int predicate, simt::Place place = simt::Place::current()) {
    return simt::collective(simt::Collective::ballot, "__any_sync", mask, predicate != 0, 0, place) != 0;
}
inline int __all_sync(unsigned mask, int predicate, simt::Place place = simt::Place::current()) {
    return simt::collective(simt::Collective::ballot, "__all_sync", mask, predicate == 0, 0, place) == 0;
}

namespace simt {

template <typename T>
uint64_t to_bits(T value) {
    static_assert(std::is_trivially_copyable_v<T> && (sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8));
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof(T));
    return bits;
}
template <typename T>
T from_bits(uint64_t bits) {
    T value;
    std::memcpy(&value, &bits, sizeof(T));
    return value;
}
inline unsigned lane() {
    return (threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) % warpSize;
}
// The first lane of the segment of `width` lanes that this lane is in.
inline int segment(int width) { return static_cast<int>(lane()) & ~(width - 1); }
// What the lane `source` gives, or this lane where that may not be asked.
template <typename T>
T shuffle(const char* name, unsigned mask, T value, int source, bool allowed, Place place) {
    const unsigned from = allowed ? static_cast<unsigned>(source) : lane();
    return from_bits<T>(collective(Collective::shuffle, name, mask, to_bits(value), from, place));
}
template <typename T>
T reduce(Collective kind, const char* name, unsigned mask, T value, Place place) {
    return from_bits<T>(collective(kind, name, mask, to_bits(value), 0, place));
}

}  // namespace simt

template <typename T>
T __shfl_sync(unsigned mask, T value, int lane, int width = warpSize,
              simt::Place place = simt::Place::current()) {
    const int source = simt::segment(width) + (lane & (width - 1));
    return simt::shuffle("__shfl_sync", mask, value, source, true, place);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = warpSize,
                 simt::Place place = simt::Place::current()) {
    const int source = static_cast<int>(simt::lane()) - static_cast<int>(delta);
    return simt::shuffle("__shfl_up_sync", mask, value, source, source >= simt::segment(width), place);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = warpSize,
                   simt::Place place = simt::Place::current()) {
    const int source = static_cast<int>(simt::lane()) + static_cast<int>(delta);
    return simt::shuffle("__shfl_down_sync", mask, value, source, source < simt::segment(width) + width,
                         place);
}
// Earlier segments may be asked, later ones not.
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = warpSize,
                  simt::Place place = simt::Place::current()) {
    const int source = static_cast<int>(simt::lane()) ^ lane_mask;
    return simt::shuffle("__shfl_xor_sync", mask, value, source, source < simt::segment(width) + width,
                         place);
}
template <typename T>
unsigned __match_any_sync(unsigned mask, T value, simt::Place place = simt::Place::current()) {
    return static_cast<unsigned>(
        simt::collective(simt::Collective::match, "__match_any_sync", mask, simt::to_bits(value), 0, place));
}
// A lane may assume of no other that it runs along.
inline unsigned __activemask() { return 1u << simt::lane(); }

inline int __reduce_add_sync(unsigned mask, int value, simt::Place place = simt::Place::current()) {
    return simt::reduce(simt::Collective::sum, "__reduce_add_sync", mask, value, place);
}
inline unsigned __reduce_add_sync(unsigned mask, unsigned value, simt::Place place = simt::Place::current()) {
    return simt::reduce(simt::Collective::sum, "__reduce_add_sync", mask, value, place);
}
inline int __reduce_min_sync(unsigned mask, int value, simt::Place place = simt::Place::current()) {
    return simt::reduce(simt::Collective::least, "__reduce_min_sync", mask, value, place);
}
inline unsigned __reduce_min_sync(unsigned mask, unsigned value, simt::Place place = simt::Place::current()) {
    return simt::reduce(simt::Collective::least_unsigned, "__reduce_min_sync", mask, value, place);
}
inline int __reduce_max_sync(unsigned mask, int value, simt::Place place = simt::Place::current()) {
    return simt::reduce(simt::Collective::most, "__reduce_max_sync", mask, value, place);
}
inline unsigned __reduce_max_sync(unsigned mask, unsigned value, simt::Place place = simt::Place::current()) {
    return simt::reduce(simt::Collective::most_unsigned, "__reduce_max_sync", mask, value, place);
}

// --------------------------------------------------------------------------------------------------- atomics

namespace simt {
// The threads take turns, so a plain update is atomic. Who comes first is random.
template <typename T, typename Update>
T atomic(T* address, const Update& update) {
    yield();
    const T old = *address;
    *address = update(old);
    return old;
}
// Integers wrap around, as on the device.
template <typename T>
T add(T x, T y) {
    if constexpr (std::is_integral_v<T>) {
        return static_cast<T>(static_cast<std::make_unsigned_t<T>>(x) +
                              static_cast<std::make_unsigned_t<T>>(y));
    } else {
        return x + y;
    }
}
template <typename T>
concept Number =
    std::is_same_v<T, int> || std::is_same_v<T, unsigned> || std::is_same_v<T, unsigned long long> ||
    std::is_same_v<T, float> || std::is_same_v<T, double>;
template <typename T>
concept Integer = Number<T> && std::is_integral_v<T>;
}  // namespace simt

template <simt::Number T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
    return simt::atomic(address, [=](T old) { return simt::add(old, value); });
}
template <simt::Integer T>
T atomicMax(T* address, std::type_identity_t<T> value) {
    return simt::atomic(address, [=](T old) { return std::max(old, value); });
}
template <simt::Integer T>
T atomicMin(T* address, std::type_identity_t<T> value) {
    return simt::atomic(address, [=](T old) { return std::min(old, value); });
}
template <simt::Integer T>
T atomicOr(T* address, std::type_identity_t<T> value) {
    return simt::atomic(address, [=](T old) { return old | value; });
}
template <simt::Integer T>
T atomicAnd(T* address, std::type_identity_t<T> value) {
    return simt::atomic(address, [=](T old) { return old & value; });
}
template <simt::Integer T>
T atomicCAS(T* address, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
    return simt::atomic(address, [=](T old) { return old == expected ? value : old; });
}
template <simt::Number T>
T atomicExch(T* address, std::type_identity_t<T> value) {
    return simt::atomic(address, [=](T) { return value; });
}

// --------------------------------------------------------------------------- loads and stores, bits, numbers

template <typename T>
T __ldg(const T* address) {
    return *address;
}
template <typename T>
T __ldcs(const T* address) {
    return *address;
}
template <typename T>
T __ldcg(const T* address) {
    return *address;
}
template <typename T>
void __stcs(T* address, std::type_identity_t<T> value) {
    *address = value;
}
template <typename T>
void __stcg(T* address, std::type_identity_t<T> value) {
    *address = value;
}

inline int __popc(unsigned x) { return std::popcount(x); }
inline int __popcll(unsigned long long x) { return std::popcount(x); }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline int __clzll(long long x) { return std::countl_zero(static_cast<unsigned long long>(x)); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }

inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline long long __double_as_longlong(double x) { return std::bit_cast<long long>(x); }
inline double __longlong_as_double(long long x) { return std::bit_cast<double>(x); }

inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline float __fmaf_rn(float x, float y, float z) { return std::fma(x, y, z); }
inline double __fma_rn(double x, double y, double z) { return std::fma(x, y, z); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }

// CUDA's min and max: of integers of one size, or of floating-point numbers; of a number and a NaN, the
// number.
namespace simt {
template <typename A, typename B>
concept Comparable = (std::is_integral_v<A> && std::is_integral_v<B> && sizeof(A) == sizeof(B)) ||
                     (std::is_floating_point_v<A> && std::is_floating_point_v<B>);
}  // namespace simt
template <typename A, typename B>
    requires simt::Comparable<A, B>
constexpr std::common_type_t<A, B> min(A x, B y) {
    using C = std::common_type_t<A, B>;
    if constexpr (std::is_floating_point_v<C>) return std::fmin(static_cast<C>(x), static_cast<C>(y));
    return std::min(static_cast<C>(x), static_cast<C>(y));
}
template <typename A, typename B>
    requires simt::Comparable<A, B>
constexpr std::common_type_t<A, B> max(A x, B y) {
    using C = std::common_type_t<A, B>;
    if constexpr (std::is_floating_point_v<C>) return std::fmax(static_cast<C>(x), static_cast<C>(y));
    return std::max(static_cast<C>(x), static_cast<C>(y));
}
