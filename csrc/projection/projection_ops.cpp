// Projections and steps for CPU tensors.
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

    template <typename T, typename A = arithmetic_t<T>>
    void project_l1(const T* delta, const T* center, PerRow<A> eps, A lo, A hi, int64_t rows, int64_t length,
                    T* out) const {
        over_rows(rows, length, [&](int64_t begin, int64_t end, ParallelFor parallel) {
            INTEGRALROB_ON_ISA(project_l1<T>, delta, center, eps, lo, hi, length, out, begin, end, parallel);
        });
    }

    template <typename T, typename A = arithmetic_t<T>>
    void project_l1_backward(const T* grad, const T* delta, const T* result, PerRow<A> eps, const T* center,
                             A lo, A hi, int64_t rows, int64_t length, T* grad_delta, A* grad_eps,
                             T* grad_center) const {
        over_rows(rows, length, [&](int64_t begin, int64_t end, ParallelFor parallel) {
            INTEGRALROB_ON_ISA(project_l1_backward<T>, grad, delta, result, eps, center, lo, hi, length,
                               grad_delta, grad_eps, grad_center, begin, end, parallel);
        });
    }

    template <typename T, typename A = arithmetic_t<T>>
    void project_l2(const T* delta, const T* center, PerRow<A> eps, A lo, A hi, int64_t rows, int64_t length,
                    T* out) const {
        over_rows(rows, length, [&](int64_t begin, int64_t end, ParallelFor parallel) {
            INTEGRALROB_ON_ISA(project_l2<T>, delta, center, eps, lo, hi, length, out, begin, end, parallel);
        });
    }

    template <typename T, typename A = arithmetic_t<T>>
    void project_l2_backward(const T* grad, const T* delta, const T* result, PerRow<A> eps, const T* center,
                             A lo, A hi, int64_t rows, int64_t length, T* grad_delta, A* grad_eps,
                             T* grad_center) const {
        over_rows(rows, length, [&](int64_t begin, int64_t end, ParallelFor parallel) {
            INTEGRALROB_ON_ISA(project_l2_backward<T>, grad, delta, result, eps, center, lo, hi, length,
                               grad_delta, grad_eps, grad_center, begin, end, parallel);
        });
    }

  private:
    // Threads share the rows out, or, where rows are few and long, each row.
    template <typename Function>
    static void over_rows(int64_t rows, int64_t length, const Function& function) {
        constexpr int64_t kLong = 1 << 16, kFew = 4;
        const int64_t threads = torch::stable::get_num_threads();
        if (threads > 1 && length >= kLong && rows < kFew * threads) {
            return function(
                0, rows, [](int64_t count, void (*body)(const void*, int64_t, int64_t), const void* context) {
                    torch::stable::parallel_for(
                        0, count, 1, [&](int64_t begin, int64_t end) { body(context, begin, end); });
                });
        }
        constexpr int64_t kBytesPerEntry = 32;  // of cache and memory
        parallel_rows(rows, kBytesPerEntry * length,
                      [&](int64_t begin, int64_t end) { function(begin, end, nullptr); });
    }
};

STABLE_TORCH_LIBRARY_IMPL(integralrob, CPU, m) {
    LinfOps<CpuKernels>::implement(m);
    BallOps<CpuKernels>::implement(m);
}

}  // namespace
}  // namespace integralrob
