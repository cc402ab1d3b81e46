#pragma once

#include <string>

namespace simt {

// The name of a function, read from the symbol table of the file that it was loaded from (the loader itself
// knows exported functions only); else the file and the offset in it.
std::string symbol_name(const void* function);

}  // namespace simt
