// The CUDA kernels of the steps in the l1 and the l2 ball, emulated, against those of the CPU, up to
// roundings; every way to hold a row gives the same bits, and so does a step in place.
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "expect.h"
#include "projection/projection_kernels.h"
#include "projection/step_cuda.cu"
#include "simt/simt.h"

using namespace integralrob;
using cuda::Place;

namespace {

struct Way {
    Place place;
    cuda::Device device;
};
// An H200; a device whose blocks have so little shared memory that clusters are of 16; one without clusters.
constexpr cuda::Device kH200 = {true, true, 227 << 10}, kSmall = {true, true, 0},
                       kOld = {false, false, 99 << 10};
const std::vector<Way> kShort = {{Place::kWarp, kH200}, {Place::kBlock, kH200}};
const std::vector<Way> kLong = {{Place::kCluster, kH200}, {Place::kDeviceMemory, kOld}};
const std::vector<Way> kAll = {{Place::kWarp, kH200},       {Place::kBlock, kH200},
                               {Place::kCluster, kH200},    {Place::kCluster, kSmall},
                               {Place::kCluster, kOld},     {Place::kDeviceMemory, kH200},
                               {Place::kDeviceMemory, kOld}};

// What a row is made of.
enum class Kind {
    kUniform,
    kSparse,
    kTies,
    kEqual,
    kZeros,
    kWide,
    kSmall,
    kInfinite,
    kNaNGrad,
    kNaNFrom,
    kNaNCenter,
    kNaNPrevious,
    kNaNRadius,
    kNaNSize,
    kKinds
};

template <typename T>
constexpr double kRounding = std::is_same_v<T, Half> ? 0x1p-11
                             : sizeof(T) == 2        ? 0x1p-8
                             : sizeof(T) == 4        ? 0x1p-24
                                                     : 0x1p-53;

template <typename T>
struct Case {
    using A = arithmetic_t<T>;
    int64_t rows, length;
    int offset;  // of the tensors, from where vectors could be loaded
    bool momentum;
    A lo = 0, hi = 1;
    std::vector<T> x_adv, grad, x, previous;
    std::vector<A> eps, size;
    std::vector<int64_t> kept;
    std::vector<Kind> kinds;

    Case(expect::Random& random, int64_t rows_, int64_t length_, int offset_, bool momentum_, int first_kind)
        : rows(rows_), length(length_), offset(offset_), momentum(momentum_) {
        for (auto* tensor : {&x_adv, &grad, &x, &previous}) tensor->resize(offset + rows * length);
        for (int64_t row = 0; row < rows; ++row) {
            kinds.push_back(static_cast<Kind>((first_kind + row) % int(Kind::kKinds)));
            fill(random, row, kinds.back());
        }
    }

    void fill(expect::Random& random, int64_t row, Kind kind) {
        const double nan = std::numeric_limits<double>::quiet_NaN();
        const int64_t special = random.below(length);
        const auto number = [](double value) { return narrow<T>(static_cast<A>(value)); };
        const double share = 0.5 * std::fabs(random.number());
        for (int64_t k = 0; k < length; ++k) {
            const int64_t at = offset + row * length + k;
            const double center = k % 7 == 0 ? 1 : 0.5 + 0.5 * random.number();
            double g = random.number();
            if (kind == Kind::kSparse && random.below(16) != 0) g = 0;
            if (kind == Kind::kTies) g = std::copysign(0.25 * std::ceil(4 * std::fabs(g)), g);
            if (kind == Kind::kEqual) g = std::copysign(0.375, g);
            if (kind == Kind::kZeros) g = std::copysign(0.0, g);
            if (kind == Kind::kWide) g *= std::exp2(-12 * std::fabs(random.number()));
            // Subnormal numbers too: of float16 as it is stored, of float32 in its squares.
            if (kind == Kind::kSmall) g *= sizeof(T) == 2 ? 0x1p-14 : sizeof(T) == 4 ? 0x1p-120 : 0x1p-1000;
            if (kind == Kind::kInfinite && k == special) g = -std::numeric_limits<double>::infinity();
            const bool here = k == special;
            grad[at] = number(kind == Kind::kNaNGrad && here ? nan : g);
            x[at] = number(kind == Kind::kNaNCenter && here ? nan : center);
            x_adv[at] = number(kind == Kind::kNaNFrom && here ? nan : center + share * random.number());
            previous[at] =
                number(kind == Kind::kNaNPrevious && here ? nan : center + share * random.number());
        }
        const double reach = std::sqrt(static_cast<double>(length)) * std::fabs(random.number());
        eps.push_back(static_cast<A>(kind == Kind::kNaNRadius ? nan
                                     : random.below(10) == 0  ? 0
                                     : random.below(10) == 0  ? std::numeric_limits<double>::infinity()
                                                              : reach));
        size.push_back(static_cast<A>(kind == Kind::kNaNSize  ? nan
                                      : random.below(10) == 0 ? 0
                                                              : reach * std::fabs(random.number())));
        const int64_t counts[] = {1, length, length + 5, 0, (length + 4) / 5, 1 + random.below(length)};
        kept.push_back(counts[random.below(6)]);
    }

    bool is_number(int64_t row) const {
        switch (kinds[row]) {
            case Kind::kNaNGrad:
            case Kind::kNaNFrom:
            case Kind::kNaNCenter:
            case Kind::kNaNRadius:
            case Kind::kNaNSize:
                return false;
            default:
                return kinds[row] != Kind::kNaNPrevious || !momentum;
        }
    }

    Step<T> step(const T* from, T* out) const {
        return {from + offset,
                grad.data() + offset,
                x.data() + offset,
                momentum ? previous.data() + offset : nullptr,
                {eps.data(), 1},
                {size.data(), 1},
                {kept.data(), 1},
                A(0.25),
                lo,
                hi,
                rows,
                length,
                out + offset};
    }

    template <template <typename> typename Norm>
    std::vector<T> run(const Way& way, bool in_place) const {
        std::vector<T> out = in_place ? x_adv : std::vector<T>(x_adv.size());
        cuda::take_step<Norm>(step(in_place ? out.data() : x_adv.data(), out.data()), "a step", way.place,
                              way.device, nullptr);
        return out;
    }

    template <template <typename> typename Norm>
    void check(const std::vector<Way>& ways) const {
        constexpr bool kL1 = std::is_same_v<Norm<T>, cuda::L1Norm<T>>;
        std::vector<T> on_cpu(x_adv.size());
        if constexpr (kL1) {
            INTEGRALROB_ON_ISA(l1_step<T>, step(x_adv.data(), on_cpu.data()), 0, rows, nullptr);
        } else {
            INTEGRALROB_ON_ISA(l2_step<T>, step(x_adv.data(), on_cpu.data()), 0, rows, nullptr);
        }
        const std::vector<T> expected = run<Norm>({Place::kAny, cuda::Device::current()}, false);
        const auto same = [&](const std::vector<T>& out) {
            return std::memcmp(out.data() + offset, expected.data() + offset, sizeof(T) * rows * length) == 0;
        };
        CHECK(same(run<Norm>({Place::kAny, cuda::Device::current()}, true)));
        for (const Way& way : ways) {
            CHECK_THAT(same(run<Norm>(way, false)) && same(run<Norm>(way, true)), "[%lld, %lld] in place %d",
                       (long long)rows, (long long)length, int(way.place));
        }
        for (int64_t row = 0; row < rows; ++row) {
            for (int64_t k = 0; k < length; ++k) {
                const double got = widen(expected[offset + row * length + k]),
                             wanted = widen(on_cpu[offset + row * length + k]);
                const double tolerance = 4 * kRounding<T> + 16 * kRounding<A> * std::fabs(1 + wanted);
                CHECK_THAT(
                    is_number(row) ? std::fabs(got - wanted) <= tolerance : std::isnan(got),
                    "l%d of %d bytes, length %lld, kind %d, momentum %d, eps %g, size %g, k %lld: element "
                    "%lld: %.9g, not %.9g",
                    kL1 ? 1 : 2, int(sizeof(T)), (long long)length, int(kinds[row]), momentum,
                    double(eps[row]), double(size[row]), (long long)kept[row], (long long)k, got, wanted);
            }
        }
    }
};

template <typename T>
void check_type(uint64_t seed) {
    simt::set_seed(seed);
    expect::Random random;
    int cases = static_cast<int>(seed);
    const auto check = [&](int64_t rows, int64_t length, int offset, const std::vector<Way>& ways) {
        const Case<T> batch(random, rows, length, offset, cases % 2 == 1, cases % int(Kind::kKinds));
        batch.template check<cuda::L1Norm>(ways);
        batch.template check<cuda::L2Norm>(ways);
        ++cases;
    };
    for (int64_t length = 1; length <= 40; length += 3) check(length % 7 == 0 ? 5 : 1, length, 0, {});
    for (int round = 0; round < 2; ++round) {
        for (const int64_t length : {1, 2, 5, 16, 33, 70})
            check(int64_t(Kind::kKinds), length, round, kShort);
    }
    for (int round = 0; round < 2; ++round) check(1, 300, 1 - round, kAll);
    using Row = typename cuda::BallStep<T, cuda::L1Norm>::Row;
    const int64_t warp = 32 * cuda::kPiecesOfThread<Row> * cuda::kLanes<T>, block = 4 * warp;
    check(3, warp, 0, kShort);
    check(1, warp + 1, 0, {{Place::kBlock, kH200}, {Place::kCluster, kOld}});
    check(1, block, 0, {{Place::kBlock, kH200}, {Place::kCluster, kOld}});
    check(1, block + 1, 0, kLong);
    check(1, 10000, 0, kLong);
}

}  // namespace

int main() {
    for (const uint64_t seed : {0, 1}) {
        check_type<float>(seed);
        check_type<double>(seed);
        check_type<Half>(seed);
        check_type<BFloat16>(seed);
    }
    return expect::summary();
}
