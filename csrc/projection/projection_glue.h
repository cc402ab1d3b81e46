// Projections and steps as ops on tensors, the same for every device.
#pragma once

#include <optional>
#include <tuple>

#include "common/glue.h"
#include "projection/per_row.h"

namespace integralrob {

struct BatchShape {
    int64_t rows, length;

    explicit BatchShape(const Tensor& batch) {
        check(batch.dim() >= 1, "the batch: expected shape [B, ...]");
        rows = batch.size(0);
        length = rows == 0 ? 0 : batch.numel() / rows;
    }
};

inline void check_like(const char* name, const Tensor& tensor, const Tensor& batch) {
    check(same_device(tensor, batch) && tensor.scalar_type() == batch.scalar_type() &&
              tensor.numel() == batch.numel(),
          name, ": expected the device, dtype and shape of the batch");
}

template <typename A>
PerRow<A> per_row(const char*, double value, const Tensor&) {
    return {nullptr, 0, static_cast<A>(value)};
}
template <typename A>
PerRow<A> per_row(const char* name, const Tensor& value, const Tensor& batch) {
    check(same_device(value, batch) && value.is_contiguous() &&
              value.scalar_type() == arithmetic_dtype(batch.scalar_type()) &&
              (value.numel() == 1 || value.numel() == batch.size(0)),
          name,
          ": expected one value, or one per sample, on the device of the batch, float64 for a float64 batch, "
          "else "
          "float32");
    return {data<A>(value), value.numel() == 1 ? 0 : 1};
}

// The center of a box, contiguous; without one there is no box.
class Center {
  public:
    Center(const std::optional<Tensor>& center, const Tensor& batch) {
        if (!center.has_value()) return;
        check_like("center", *center, batch);
        center_ = as_contiguous(*center);
    }
    template <typename T>
    const T* values() const {
        return center_ ? data<const T>(*center_) : nullptr;
    }

  private:
    std::optional<Tensor> center_;
};

// project.template operator()<T>(delta, center or null, eps, lo, hi, rows, length, out) on contiguous [rows,
// length]
template <typename Project>
Tensor project_rows(const Tensor& delta_, const Tensor& eps, const std::optional<Tensor>& center_,
                    double lower, double upper, const Project& project) {
    const Tensor delta = as_contiguous(delta_);
    const BatchShape shape(delta);
    const Center center(center_, delta);
    Tensor out = new_result(delta, delta.sizes());
    for_dtype("delta", delta.scalar_type(), [&]<typename T>() {
        using A = arithmetic_t<T>;
        project.template operator()<T>(delta, data<const T>(delta), center.values<T>(),
                                       per_row<A>("eps", eps, delta), static_cast<A>(lower),
                                       static_cast<A>(upper), shape.rows, shape.length, data<T>(out));
    });
    return out;
}

// Kernels are those of a device, made for a batch and its device, on contiguous [rows, length]:
//   project_l1<T>, project_l2<T>(delta, center or null, eps, lo, hi, rows, length, out)
//   project_l1_backward<T>, project_l2_backward<T>(grad, delta, result, eps, center or null, lo, hi, rows,
//   length,
//                                                  grad_delta, grad_eps, grad_center or null)
template <typename Kernels>
class BallOps {
  public:
    static void implement(torch::stable::detail::StableLibrary& library) {
        library.impl("project_l1", TORCH_BOX(&BallOps::project<1>));
        library.impl("project_l2", TORCH_BOX(&BallOps::project<2>));
        library.impl("project_l1_backward", TORCH_BOX(&BallOps::project_backward<1>));
        library.impl("project_l2_backward", TORCH_BOX(&BallOps::project_backward<2>));
    }

  private:
    template <int kNorm>
    static Tensor project(const Tensor& delta, const Tensor& eps, const std::optional<Tensor>& center,
                          double lower, double upper) {
        return project_rows(delta, eps, center, lower, upper,
                            []<typename T>(const Tensor& batch, const auto&... arguments) {
                                if constexpr (kNorm == 1) Kernels(batch).template project_l1<T>(arguments...);
                                if constexpr (kNorm == 2) Kernels(batch).template project_l2<T>(arguments...);
                            });
    }

    template <int kNorm>
    static std::tuple<Tensor, Tensor, Tensor> project_backward(const Tensor& grad_, const Tensor& delta_,
                                                               const Tensor& result_, const Tensor& eps,
                                                               const std::optional<Tensor>& center_,
                                                               double lower, double upper) {
        const Tensor delta = as_contiguous(delta_);
        const BatchShape shape(delta);
        check_like("grad", grad_, delta);
        check_like("result", result_, delta);
        const Tensor grad = as_contiguous(grad_), result = as_contiguous(result_);
        const Center center(center_, delta);
        const int64_t none = 0;
        Tensor grad_delta = new_result(delta, delta.sizes());
        Tensor grad_eps = new_result(eps, {&shape.rows, 1});
        Tensor grad_center =
            center_.has_value() ? new_result(delta, delta.sizes()) : new_result(delta, {&none, 1});
        for_dtype("delta", delta.scalar_type(), [&]<typename T>() {
            using A = arithmetic_t<T>;
            const auto call = [&](const auto&... arguments) {
                if constexpr (kNorm == 1) Kernels(delta).template project_l1_backward<T>(arguments...);
                if constexpr (kNorm == 2) Kernels(delta).template project_l2_backward<T>(arguments...);
            };
            call(data<const T>(grad), data<const T>(delta), data<const T>(result),
                 per_row<A>("eps", eps, delta), center.values<T>(), static_cast<A>(lower),
                 static_cast<A>(upper), shape.rows, shape.length, data<T>(grad_delta), data<A>(grad_eps),
                 center_.has_value() ? data<T>(grad_center) : nullptr);
        });
        return {grad_delta, grad_eps, grad_center};
    }
};

// Likewise:
//   project_linf<T>(delta, center or null, eps, lo, hi, rows, length, out)
//   linf_step<T>(x_adv, grad, x, eps, step, lo, hi, rows, length, out), where out may be x_adv
template <typename Kernels>
class LinfOps {
  public:
    static void implement(torch::stable::detail::StableLibrary& library) {
        library.impl("project_linf", TORCH_BOX(&LinfOps::project));
        library.impl("linf_step", TORCH_BOX(&LinfOps::step<double>));
        library.impl("linf_step.per_sample", TORCH_BOX(&LinfOps::step<const Tensor&>));
        library.impl("linf_step_", TORCH_BOX(&LinfOps::step_in_place<double>));
        library.impl("linf_step_.per_sample", TORCH_BOX(&LinfOps::step_in_place<const Tensor&>));
    }

  private:
    static Tensor project(const Tensor& delta, const Tensor& eps, const std::optional<Tensor>& center,
                          double lower, double upper) {
        return project_rows(delta, eps, center, lower, upper,
                            []<typename T>(const Tensor& batch, const auto&... arguments) {
                                Kernels(batch).template project_linf<T>(arguments...);
                            });
    }

    // `Value`: a number, or a tensor with one value or one per sample. out may be x_adv, which is contiguous.
    template <typename Value>
    static void step_into(Tensor& out, const Tensor& x_adv, const Tensor& grad_, const Tensor& x_, Value eps,
                          Value step, double lower, double upper) {
        const BatchShape shape(x_adv);
        check_like("grad", grad_, x_adv);
        check_like("x", x_, x_adv);
        const Tensor grad = as_contiguous(grad_), x = as_contiguous(x_);
        for_dtype("x_adv", x_adv.scalar_type(), [&]<typename T>() {
            using A = arithmetic_t<T>;
            Kernels(x_adv).template linf_step<T>(
                data<const T>(x_adv), data<const T>(grad), data<const T>(x), per_row<A>("eps", eps, x_adv),
                per_row<A>("step_size", step, x_adv), static_cast<A>(lower), static_cast<A>(upper),
                shape.rows, shape.length, data<T>(out));
        });
    }

    template <typename Value>
    static Tensor step(const Tensor& x_adv_, const Tensor& grad, const Tensor& x, Value eps, Value step_size,
                       double lower, double upper) {
        const Tensor x_adv = as_contiguous(x_adv_);
        Tensor out = new_result(x_adv, x_adv.sizes());
        step_into<Value>(out, x_adv, grad, x, eps, step_size, lower, upper);
        return out;
    }

    template <typename Value>
    static void step_in_place(Tensor x_adv, const Tensor& grad, const Tensor& x, Value eps, Value step_size,
                              double lower, double upper) {
        Tensor result = as_contiguous(x_adv);
        step_into<Value>(result, result, grad, x, eps, step_size, lower, upper);
        if (!x_adv.is_contiguous()) torch::stable::copy_(x_adv, result);
    }
};

}  // namespace integralrob
