#include "common/isa.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

namespace integralrob {
namespace {

constexpr const char* kNames[] = {"baseline", "avx2", "avx512"};

Isa best_of_machine() {
#if defined(__x86_64__)
    const bool avx2 =
        __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    return avx2 && avx512 ? Isa::avx512 : avx2 ? Isa::avx2 : Isa::baseline;
#else
    return Isa::baseline;
#endif
}

Isa choose() {
    const Isa best = best_of_machine();
    if (const char* wanted = std::getenv("INTEGRALROB_ISA")) {
        for (const Isa isa : {Isa::baseline, Isa::avx2, Isa::avx512}) {
            if (std::strcmp(wanted, kNames[static_cast<int>(isa)]) == 0) return std::min(isa, best);
        }
        throw std::runtime_error(std::string("INTEGRALROB_ISA: expected baseline, avx2 or avx512, got ") +
                                 wanted);
    }
    return best;
}

}  // namespace

Isa isa() {
    static const Isa chosen = choose();
    return chosen;
}

const char* isa_name() { return kNames[static_cast<int>(isa())]; }

}  // namespace integralrob
