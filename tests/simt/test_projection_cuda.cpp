// The CUDA kernels of the l-infinity projection and step, emulated, against the scalar formulas and the CPU
// kernels, bit for bit.
#include <limits>

#include "expect.h"
#include "projection/projection_cuda.cu"
#include "projection/projection_kernels.h"
#include "simt/simt.h"

using namespace integralrob;

namespace {

// Equal bits, or both NaN.
template <typename T>
bool same(T x, T y) {
    const auto a = widen(x), b = widen(y);
    return (std::isnan(a) && std::isnan(b)) || (a == b && std::signbit(a) == std::signbit(b));
}

template <typename T>
T special_or(double x, int64_t k) {
    using A = arithmetic_t<T>;
    const A infinity = std::numeric_limits<A>::infinity();
    const A special[] = {A(0), -A(0), infinity, -infinity, std::numeric_limits<A>::quiet_NaN()};
    return narrow<T>(k % 11 < 5 ? special[k % 11] : static_cast<A>(x));
}

// Memory of just this many elements, `offset` elements from where vectors could be loaded.
template <typename T>
class Buffer {
  public:
    Buffer(int64_t count, int offset) : memory_(count + offset), offset_(offset) {}
    Buffer(expect::Random& random, int64_t count, int offset) : Buffer(count, offset) {
        for (int64_t k = 0; k < count; ++k) data()[k] = special_or<T>(random.number(), random.below(50));
    }
    T* data() { return memory_.data() + offset_; }
    const T* data() const { return memory_.data() + offset_; }

  private:
    std::vector<T> memory_;
    int offset_;
};

// Offsets of the inputs (of previous as of grad) and of the result.
struct Offsets {
    int x_adv, grad, x, out;
};

template <typename T>
struct Case {
    using A = arithmetic_t<T>;
    int64_t rows, length, count;
    Offsets offsets;
    Buffer<T> x_adv, grad, x, previous;
    std::vector<A> eps, sizes;

    Case(expect::Random& random, int64_t rows_, int64_t length_, Offsets offsets_)
        : rows(rows_),
          length(length_),
          count(rows * length),
          offsets(offsets_),
          x_adv(random, count, offsets.x_adv),
          grad(random, count, offsets.grad),
          x(random, count, offsets.x),
          previous(random, count, offsets.grad) {
        for (int64_t row = 0; row < rows; ++row) {
            eps.push_back(static_cast<A>(std::fabs(random.number())));
            sizes.push_back(static_cast<A>(std::fabs(random.number())));
        }
    }

    // A parameter in the three ways that it can come.
    std::vector<PerRow<A>> ways(const std::vector<A>& values) const {
        if (rows == 0) return {{nullptr, 0, A(0.25)}};
        return {{nullptr, 0, A(0.25)}, {values.data(), 0}, {values.data(), 1}};
    }

    template <typename Formula>
    void expect_equal(const char* what, const T* out, const Formula& formula) const {
        for (int64_t k = 0; k < count; ++k) {
            const T expected = narrow<T>(formula(k, k / length));
            CHECK_THAT(same(out[k], expected), "%s [%lld, %lld] element %lld: %g, not %g", what,
                       (long long)rows, (long long)length, (long long)k, double(widen(out[k])),
                       double(widen(expected)));
        }
    }

    void check_projection(const T* center, A lo, A hi) const {
        for (const PerRow<A> radius : ways(eps)) {
            const auto formula = [&](int64_t k, int64_t row) {
                const A e = radius[row], delta = widen(x_adv.data()[k]);
                return center ? project_linf(delta, e, A(widen(center[k])), lo, hi)
                              : nan_min(nan_max(delta, -e), e);
            };
            Buffer<T> out(count, offsets.out), on_cpu(count, 0);
            cuda::project_linf<T>(x_adv.data(), center, radius, lo, hi, rows, length, out.data(), nullptr);
            INTEGRALROB_ON_ISA(project_linf<T>, x_adv.data(), center, radius, lo, hi, length, on_cpu.data(),
                               0, count);
            expect_equal("project_linf on CUDA", out.data(), formula);
            expect_equal("project_linf on the CPU", on_cpu.data(), formula);
        }
    }

    void check_step(A lo, A hi) const {
        for (const PerRow<A> radius : ways(eps)) {
            for (const PerRow<A> size : ways(sizes)) {
                for (const bool momentum : {false, true}) check_step(lo, hi, radius, size, momentum);
            }
        }
    }

    void check_step(A lo, A hi, PerRow<A> radius, PerRow<A> size, bool momentum) const {
        const auto formula = [&](int64_t k, int64_t row) {
            const A from = widen(x_adv.data()[k]), center = widen(x.data()[k]);
            A v = along_sign(from, A(widen(grad.data()[k])), size[row]);
            if (momentum) {
                const A z = clip_linf(v, center, radius[row], lo, hi);
                v = from + cuda::with_momentum(z, from, A(widen(previous.data()[k])), A(0.25));
            }
            return clip_linf_to<T>(v, center, radius[row], lo, hi);
        };
        Buffer<T> out(count, offsets.out), in_place = x_adv, on_cpu(count, 0);
        const auto step = [&](const T* from, T* to) {
            return Step<T>{from,
                           grad.data(),
                           x.data(),
                           momentum ? previous.data() : nullptr,
                           radius,
                           size,
                           {nullptr, 0, 1},
                           A(0.25),
                           lo,
                           hi,
                           rows,
                           length,
                           to};
        };
        cuda::linf_step(step(x_adv.data(), out.data()), nullptr);
        cuda::linf_step(step(in_place.data(), in_place.data()), nullptr);
        expect_equal("linf_step on CUDA", out.data(), formula);
        expect_equal("linf_step in place", in_place.data(), formula);
        if (momentum) return;
        INTEGRALROB_ON_ISA(linf_step<T>, step(x_adv.data(), on_cpu.data()), 0, count);
        expect_equal("linf_step on the CPU", on_cpu.data(), formula);
    }

    void check() const {
        const A infinity = std::numeric_limits<A>::infinity();
        check_projection(nullptr, A(0), A(1));
        check_projection(x.data(), A(0), A(1));
        check_projection(x.data(), A(-0.5), infinity);
        check_step(A(0), A(1));
        check_step(-infinity, infinity);
    }
};

// A grid of fewer blocks than tiles goes around more than once.
template <typename T>
void check_small_grid(expect::Random& random) {
    using A = arithmetic_t<T>;
    using Formula = cuda::ProjectOnBall<A>;
    const Case<T> batch(random, 7, 1500, {});
    const Formula formula{{batch.eps.data(), 1}};
    Buffer<T> out(batch.count, 0);
    cuda::launch(cuda::map_rows<cuda::kLanes<T>, 1, T, Formula>, {.blocks = 2, .threads = cuda::kMapThreads},
                 nullptr, cuda::Inputs<T, Formula>{{batch.x_adv.data()}}, formula, batch.count, batch.length,
                 out.data());
    batch.expect_equal("two blocks", out.data(), [&](int64_t k, int64_t row) {
        const A x[] = {A(widen(batch.x_adv.data()[k]))};
        return formula(x, formula.row(row));
    });
}

template <typename T>
void check_type(uint64_t seed) {
    simt::set_seed(seed);
    expect::Random random;
    for (int64_t count = 0; count <= 100; ++count) Case<T>(random, 1, count, {}).check();
    for (const int64_t length : {1, 2, 3, 5, 7, 8, 9, 13, 16}) {
        for (const int64_t rows : {0, 1, 2, 5, 40}) Case<T>(random, rows, length, {}).check();
    }
    for (const auto& [rows, length] :
         {std::pair<int64_t, int64_t>{3, 1001}, {2, 4099}, {5000, 1}, {700, 3}}) {
        Case<T>(random, rows, length, {}).check();
    }
    for (const Offsets& offsets :
         {Offsets{1, 0, 0, 0}, {0, 1, 0, 0}, {0, 0, 1, 0}, {0, 0, 0, 1}, {1, 1, 1, 1}}) {
        for (const auto& [rows, length] : {std::pair<int64_t, int64_t>{1, 3}, {3, 7}, {4, 700}}) {
            Case<T>(random, rows, length, offsets).check();
        }
    }
    check_small_grid<T>(random);
}

}  // namespace

int main() {
    for (const uint64_t seed : {0, 1, 2}) {
        check_type<float>(seed);
        check_type<double>(seed);
        check_type<Half>(seed);
        check_type<BFloat16>(seed);
    }
    return expect::summary();
}
