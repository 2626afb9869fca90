// The measures behind `compare`, one source each: arguments as there.
#pragma once

#include "types.hpp"

namespace keramorph::KERAMORPH_INSTRUCTIONS {

void compare_differences(const Volume& volume, const void* fixed, const void* moved, void* value, void* derivative);

void compare_correlations(const Volume& volume, const void* fixed, const void* moved, void* value, void* derivative);

// Boxes with an edge of `width` voxels along every axis.
void compare_locally(const Volume& volume, std::int64_t width, bool squared, const void* fixed, const void* moved,
                     void* value, void* derivative);

void compare_information(const Volume& volume, std::int64_t bins, bool normalized, const void* fixed,
                         const void* moved, void* value, void* derivative);

void compare_self_similarities(const Volume& volume, std::int64_t radius, std::int64_t dilation, const void* fixed,
                               const void* moved, void* value, void* derivative);

}  // namespace keramorph::KERAMORPH_INSTRUCTIONS
