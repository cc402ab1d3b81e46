// integralrob::project_linf and linf_step for CPU tensors.
#include "projection/projection_glue.h"
#include "projection/projection_kernels.h"

namespace integralrob {
namespace {

struct CpuKernels {
    explicit CpuKernels(const Tensor&) {}

    template <typename T, typename A = arithmetic_t<T>>
    void project_linf(const T* delta, const T* center, PerRow<A> eps, A lo, A hi, int64_t rows,
                      int64_t length, T* out) const {
        parallel_rows(rows * length, 3 * sizeof(T), [&](int64_t begin, int64_t end) {
            INTEGRALROB_ON_ISA(project_linf<T>, delta, center, eps, lo, hi, length, out, begin, end);
        });
    }

    template <typename T, typename A = arithmetic_t<T>>
    void linf_step(const T* x_adv, const T* grad, const T* x, PerRow<A> eps, PerRow<A> step, A lo, A hi,
                   int64_t rows, int64_t length, T* out) const {
        parallel_rows(rows * length, 4 * sizeof(T), [&](int64_t begin, int64_t end) {
            INTEGRALROB_ON_ISA(linf_step<T>, x_adv, grad, x, eps, step, lo, hi, length, out, begin, end);
        });
    }
};

STABLE_TORCH_LIBRARY_IMPL(integralrob, CPU, m) { LinfOps<CpuKernels>::implement(m); }

}  // namespace
}  // namespace integralrob
