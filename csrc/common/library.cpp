// What Python asks of the CPU library beside its ops (through ctypes).
#include "common/isa.h"

extern "C" __attribute__((visibility("default"))) const char* integralrob_isa() {
    return integralrob::isa_name();
}
