// What every *_ops.cpp needs to stand between the dispatcher and the kernels. LibTorch's stable ABI only.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <cstdint>
#include <sstream>
#include <stdexcept>

#include "common/half.h"

namespace integralrob {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// An error that a Python caller reads: the message and nothing else.
template <typename... Parts>
void check(bool condition, const Parts&... parts) {
    if (condition) return;
    std::ostringstream message;
    (message << ... << parts);
    throw std::runtime_error(message.str());
}

template <typename T>
T* data(const Tensor& tensor) {
    return static_cast<T*>(tensor.data_ptr());
}

inline Tensor as_contiguous(const Tensor& tensor) {
    return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

// Kernels read both by address, so this is never taken on trust.
inline bool same_device(const Tensor& x, const Tensor& y) {
    return x.is_cuda() == y.is_cuda() && x.get_device_index() == y.get_device_index();
}

// The allocator hands large blocks back to the system, so a large result is fresh memory each time, and its
// page faults would cost more than the kernel: ask for huge pages (a hint, where Linux has them).
inline void prefer_huge_pages(const Tensor& tensor) {
#if defined(__linux__)
    constexpr uintptr_t kHugePage = 2 << 20;
    const uintptr_t begin = reinterpret_cast<uintptr_t>(tensor.data_ptr());
    const uintptr_t first = (begin + kHugePage - 1) / kHugePage * kHugePage;
    const uintptr_t last = (begin + tensor.numel() * tensor.element_size()) / kHugePage * kHugePage;
    if (last >= first + 4 * kHugePage) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

// An uninitialised tensor like `like`, of another shape.
inline Tensor new_result(const Tensor& like, torch::headeronly::IntHeaderOnlyArrayRef sizes) {
    Tensor result = [&] {
        try {
            return torch::stable::new_empty(like, sizes);
        } catch (const std::exception&) {
            if (!like.is_cpu())
                throw;  // it need not be about memory: errors of earlier kernels show here too
            std::ostringstream message;
            message << "no memory for a result of shape [";
            for (size_t d = 0; d < sizes.size(); ++d) message << (d == 0 ? "" : ", ") << sizes[d];
            throw std::runtime_error(message.str() + "]");
        }
    }();
    if (result.is_cpu()) prefer_huge_pages(result);
    return result;
}

// Calls function.template operator()<T>() for the storage type T of a dtype.
template <typename Function>
void for_dtype(const char* name, ScalarType dtype, const Function& function) {
    switch (dtype) {
        case ScalarType::Float:
            return function.template operator()<float>();
        case ScalarType::Double:
            return function.template operator()<double>();
        case ScalarType::Half:
            return function.template operator()<Half>();
        case ScalarType::BFloat16:
            return function.template operator()<BFloat16>();
        default:
            check(false, name, ": expected float16, bfloat16, float32 or float64");
    }
}

inline ScalarType arithmetic_dtype(ScalarType dtype) {
    return dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// Ranges of rows over torch's threads, each range worth at least some tens of microseconds. `work` is per
// row, in bytes touched.
template <typename Function>
void parallel_rows(int64_t rows, int64_t work, const Function& function) {
    constexpr int64_t kBytesPerTask = 1 << 17;
    const int64_t grain = std::max<int64_t>(1, kBytesPerTask / std::max<int64_t>(1, work));
    if (rows <= grain) return function(0, rows);
    torch::stable::parallel_for(0, rows, grain, function);
}

}  // namespace integralrob
