// float16 and bfloat16: every value, and rounding against the nearest of all values.
#include <algorithm>
#include <limits>

#include "common/half.h"
#include "expect.h"

using namespace integralrob;

namespace {

// The value that the bits stand for, by the definition of the format.
double decode(uint16_t bits, int mantissa_bits) {
    const int exponent_bits = 15 - mantissa_bits, bias = (1 << (exponent_bits - 1)) - 1;
    const int exponent = (bits & 0x7fff) >> mantissa_bits, mantissa = bits & ((1 << mantissa_bits) - 1);
    const double sign = bits & 0x8000 ? -1.0 : 1.0;
    if (exponent == (1 << exponent_bits) - 1) {
        return mantissa == 0 ? sign * std::numeric_limits<double>::infinity()
                             : std::numeric_limits<double>::quiet_NaN();
    }
    if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - mantissa_bits);
    return sign * std::ldexp((1 << mantissa_bits) + mantissa, exponent - bias - mantissa_bits);
}

template <typename T>
struct Format {
    int mantissa_bits;
    std::vector<double> magnitude;  // of the bits 0, 1, ... up to the largest finite value

    explicit Format(int mantissa_bits_) : mantissa_bits(mantissa_bits_) {
        for (uint32_t bits = 0; std::isfinite(decode(static_cast<uint16_t>(bits), mantissa_bits)); ++bits) {
            magnitude.push_back(decode(static_cast<uint16_t>(bits), mantissa_bits));
        }
    }

    // Nearest value, ties to the even bits; from half a step beyond the largest value on, infinity.
    uint16_t encode(double x) const {
        const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
        const double target = std::fabs(x);
        const int64_t above =
            std::lower_bound(magnitude.begin(), magnitude.end(), target) - magnitude.begin();
        const int64_t count = static_cast<int64_t>(magnitude.size());
        const double step = magnitude[count - 1] - magnitude[count - 2];
        const auto value = [&](int64_t k) { return k < count ? magnitude[k] : magnitude[count - 1] + step; };
        if (above > count || target >= value(count)) return static_cast<uint16_t>(sign | count);
        if (above == 0) return sign;
        const double up = value(above) - target, down = target - value(above - 1);
        const int64_t nearest = up < down || (up == down && above % 2 == 0) ? above : above - 1;
        return static_cast<uint16_t>(sign | nearest);
    }

    void check_narrow(float x) const {
        const uint16_t actual = narrow<T>(x).bits, expected = encode(x);
        CHECK_THAT(actual == expected, "%a -> %04x, not %04x", static_cast<double>(x), actual, expected);
    }

    void check_widen_all() const {
        for (uint32_t bits = 0; bits < 0x10000; ++bits) {
            const T half{static_cast<uint16_t>(bits)};
            const float actual = widen(half);
            const double expected = decode(half.bits, mantissa_bits);
            if (std::isnan(expected)) {
                CHECK_THAT(std::isnan(actual), "%04x", bits);
                CHECK_THAT(std::isnan(widen(narrow<T>(actual))), "%04x", bits);
            } else {
                CHECK_THAT(
                    static_cast<double>(actual) == expected && std::signbit(actual) == std::signbit(expected),
                    "%04x -> %a, not %a", bits, static_cast<double>(actual), expected);
                CHECK_THAT(narrow<T>(actual).bits == half.bits, "%04x does not return", bits);
            }
        }
    }

    // Around every value and every tie: the float itself and its neighbours.
    void check_rounding() const {
        const float infinity = std::numeric_limits<float>::infinity();
        for (size_t k = 0; k + 1 < magnitude.size(); ++k) {
            for (const double center : {magnitude[k], (magnitude[k] + magnitude[k + 1]) / 2}) {
                const float x = static_cast<float>(center);
                for (const float near : {x, std::nextafter(x, infinity), std::nextafter(x, -infinity)}) {
                    check_narrow(near);
                    check_narrow(-near);
                }
            }
        }
        const double largest = magnitude.back(), step = largest - magnitude[magnitude.size() - 2];
        for (const double x :
             {largest + step / 2, largest + 0.4999 * step, largest + step, 3.0 * largest, 3.4e38}) {
            if (x < std::numeric_limits<float>::max()) check_narrow(static_cast<float>(x));
        }
        CHECK(widen(narrow<T>(infinity)) == infinity);
        CHECK(widen(narrow<T>(-infinity)) == -infinity);
        CHECK(std::signbit(widen(narrow<T>(-0.0f))));
        for (const uint32_t nan : {0x7fc00000u, 0x7f800001u, 0xffc00000u, 0x7fffffffu, 0xff800001u}) {
            CHECK_THAT(std::isnan(widen(narrow<T>(bit_cast<float>(nan)))), "%08x", nan);
        }
        expect::Random random;
        for (int k = 0; k < 200000; ++k) {
            check_narrow(
                static_cast<float>(std::ldexp(random.number(), static_cast<int>(random.below(60)) - 40)));
        }
    }
};

}  // namespace

int main() {
    const Format<Half> half(10);
    half.check_widen_all();
    half.check_rounding();
    const Format<BFloat16> bfloat(7);
    bfloat.check_widen_all();
    bfloat.check_rounding();
    CHECK(widen(2.5f) == 2.5f && widen(2.5) == 2.5 && narrow<float>(2.5f) == 2.5f &&
          narrow<double>(2.5) == 2.5);
    return expect::summary();
}
