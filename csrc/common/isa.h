// One binary for every x86-64 machine: each CPU kernel file is compiled once per instruction set, into a
// namespace of its own, and the copy for the machine at hand is chosen at run time.
#pragma once

#if defined(__x86_64__)
#define INTEGRALROB_ISAS(X) X(baseline) X(avx2) X(avx512)
#else
#define INTEGRALROB_ISAS(X) X(baseline)
#endif

namespace integralrob {

enum class Isa { baseline, avx2, avx512 };

// The best instruction set of this machine that kernels were compiled for.
// INTEGRALROB_ISA=baseline|avx2|avx512 in the environment lowers it (for tests and comparisons).
Isa isa();
const char* isa_name();

}  // namespace integralrob

// Calls FUNCTION(...) from the namespace of the instruction set in use.
#if defined(__x86_64__)
#define INTEGRALROB_ON_ISA(FUNCTION, ...)                                               \
    (::integralrob::isa() == ::integralrob::Isa::avx512 ? avx512::FUNCTION(__VA_ARGS__) \
     : ::integralrob::isa() == ::integralrob::Isa::avx2 ? avx2::FUNCTION(__VA_ARGS__)   \
                                                        : baseline::FUNCTION(__VA_ARGS__))
#else
#define INTEGRALROB_ON_ISA(FUNCTION, ...) baseline::FUNCTION(__VA_ARGS__)
#endif
