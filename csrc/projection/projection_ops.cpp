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

    template <typename T>
    void linf_step(const Step<T>& step) const {
        parallel_rows(step.rows * step.length, 4 * sizeof(T), [&](int64_t begin, int64_t end) {
            INTEGRALROB_ON_ISA(linf_step<T>, step, begin, end);
        });
    }

#define INTEGRALROB_OVER_ROWS(FUNCTION, ROWS, LENGTH, ...)                          \
    over_rows(ROWS, LENGTH, [&](int64_t begin, int64_t end, ParallelFor parallel) { \
        INTEGRALROB_ON_ISA(FUNCTION, __VA_ARGS__, begin, end, parallel);            \
    })

    template <typename T, typename A = arithmetic_t<T>>
    void project_l1(const T* delta, const T* center, PerRow<A> eps, A lo, A hi, int64_t rows, int64_t length,
                    T* out) const {
        INTEGRALROB_OVER_ROWS(project_l1<T>, rows, length, delta, center, eps, lo, hi, length, out);
    }
    template <typename T, typename A = arithmetic_t<T>>
    void project_l2(const T* delta, const T* center, PerRow<A> eps, A lo, A hi, int64_t rows, int64_t length,
                    T* out) const {
        INTEGRALROB_OVER_ROWS(project_l2<T>, rows, length, delta, center, eps, lo, hi, length, out);
    }

    template <typename T, typename A = arithmetic_t<T>>
    void project_linf_backward(const T* grad, const T* delta, PerRow<A> eps, const T* center, A lo, A hi,
                               int64_t rows, int64_t length, T* grad_delta, A* grad_eps,
                               T* grad_center) const {
        INTEGRALROB_OVER_ROWS(project_linf_backward<T>, rows, length, grad, delta, eps, center, lo, hi,
                              length, grad_delta, grad_eps, grad_center);
    }
    template <typename T, typename A = arithmetic_t<T>>
    void project_l1_backward(const T* grad, const T* delta, const T* result, PerRow<A> eps, const T* center,
                             A lo, A hi, int64_t rows, int64_t length, T* grad_delta, A* grad_eps,
                             T* grad_center) const {
        INTEGRALROB_OVER_ROWS(project_l1_backward<T>, rows, length, grad, delta, result, eps, center, lo, hi,
                              length, grad_delta, grad_eps, grad_center);
    }
    template <typename T, typename A = arithmetic_t<T>>
    void project_l2_backward(const T* grad, const T* delta, const T* result, PerRow<A> eps, const T* center,
                             A lo, A hi, int64_t rows, int64_t length, T* grad_delta, A* grad_eps,
                             T* grad_center) const {
        INTEGRALROB_OVER_ROWS(project_l2_backward<T>, rows, length, grad, delta, result, eps, center, lo, hi,
                              length, grad_delta, grad_eps, grad_center);
    }

    template <typename T>
    void l1_step(const Step<T>& step) const {
        INTEGRALROB_OVER_ROWS(l1_step<T>, step.rows, step.length, step);
    }
    template <typename T>
    void l2_step(const Step<T>& step) const {
        INTEGRALROB_OVER_ROWS(l2_step<T>, step.rows, step.length, step);
    }

#undef INTEGRALROB_OVER_ROWS

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
    ProjectionOps<CpuKernels>::implement(m);
    StepOps<CpuKernels>::implement(m);
}

}  // namespace
}  // namespace integralrob
