// The kernels for whoever binds them: each picks the best instruction set of the machine at its first call.
#pragma once

#include "types.hpp"

namespace keramorph {

#include "functions.inc"

// What is compiled in, from the plainest to the fastest, and which one runs here. The environment variable
// KERAMORPH_INSTRUCTIONS names a plainer one.
enum class Instructions : int { baseline, avx2, avx512 };
Instructions instructions();
const char* name_of(Instructions instructions);

}  // namespace keramorph
