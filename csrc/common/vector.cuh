// Memory in the largest pieces that one instruction of a thread moves: 16 bytes.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace integralrob::cuda {

constexpr int kVectorBytes = 16;

template <typename T>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

template <typename T, int Lanes = kLanes<T>>
struct alignas(Lanes * sizeof(T)) Vector {
    T lane[Lanes];
};

// A pointer is aligned to the size of what it is loaded from or stored to.
template <typename T, int Lanes = kLanes<T>>
__device__ __forceinline__ Vector<T, Lanes> load(const T* from) {
    return *reinterpret_cast<const Vector<T, Lanes>*>(from);
}

template <typename T, int Lanes>
__device__ __forceinline__ void store(T* to, const Vector<T, Lanes>& vector) {
    *reinterpret_cast<Vector<T, Lanes>*>(to) = vector;
}

// Whether vectors can be moved from and to all the pointers; a null pointer is not in the way.
template <typename... T>
bool aligned16(const T*... pointer) {
    return ((reinterpret_cast<uintptr_t>(pointer) | ...) % kVectorBytes) == 0;
}

}  // namespace integralrob::cuda
