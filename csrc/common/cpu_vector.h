// Fixed-width vectors for the CPU kernels, in the namespace of the instruction set that the file is compiled
// for.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <new>

#include "common/half.h"

#ifndef INTEGRALROB_ISA_NAMESPACE
#error "INTEGRALROB_ISA_NAMESPACE is set by CMakeLists.txt for each instruction set"
#endif

namespace integralrob::INTEGRALROB_ISA_NAMESPACE {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <typename A, int Lanes>
struct Vector {
    typedef A type __attribute__((vector_size(Lanes * sizeof(A))));
    type lanes;

    static INTEGRALROB_INLINE Vector zero() { return {type{}}; }

    static INTEGRALROB_INLINE Vector load(const A* from) {
        Vector v;
        std::memcpy(&v.lanes, from, sizeof(type));
        return v;
    }
    // Storage types are widened lane by lane; the compiler makes vector code of it.
    template <typename T>
    static INTEGRALROB_INLINE Vector load(const T* from) {
        A wide[Lanes];
        for (int lane = 0; lane < Lanes; ++lane) wide[lane] = widen(from[lane]);
        return load(wide);
    }
    INTEGRALROB_INLINE void store(A* to) const { std::memcpy(to, &lanes, sizeof(type)); }

    INTEGRALROB_INLINE void add_product(Vector x, A factor) { lanes += x.lanes * factor; }
    INTEGRALROB_INLINE void add_product(Vector x, Vector y) { lanes += x.lanes * y.lanes; }

    INTEGRALROB_INLINE A sum() const {
        A wide[Lanes];
        store(wide);
        for (int width = Lanes / 2; width > 0; width /= 2) {
            for (int lane = 0; lane < width; ++lane) wide[lane] += wide[lane + width];
        }
        return wide[0];
    }
};

template <typename A>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(A));

// Uninitialised, 64-byte aligned working memory.
template <typename A>
class Scratch {
  public:
    explicit Scratch(int64_t size)
        : data_(static_cast<A*>(std::aligned_alloc(64, (size * sizeof(A) + 127) / 64 * 64))) {
        if (data_ == nullptr) throw std::bad_alloc();
    }
    ~Scratch() { std::free(data_); }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    A* data() const { return data_; }

  private:
    A* data_;
};

}  // namespace integralrob::INTEGRALROB_ISA_NAMESPACE
