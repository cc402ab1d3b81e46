// What Python asks of the CPU library beside its ops (through ctypes).
#include <stdexcept>

#include "common/isa.h"

extern "C" __attribute__((visibility("default"))) const char* integralrob_isa() {
    try {
        return integralrob::isa_name();
    } catch (const std::runtime_error&) {  // an exception must not reach ctypes
        return "invalid: see the environment variable INTEGRALROB_ISA";
    }
}
