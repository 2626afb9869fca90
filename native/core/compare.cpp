// Comparison of two images by one of the measures.
#include "measures.hpp"

namespace keramorph::KERAMORPH_INSTRUCTIONS {

#include "functions.inc"

void compare(const Volume& volume, const Comparison& comparison, const void* fixed, const void* moved, void* value,
             void* derivative) {
  switch (comparison.measure) {
    case Measure::squared_difference: return compare_differences(volume, fixed, moved, value, derivative);
    case Measure::correlation: return compare_correlations(volume, fixed, moved, value, derivative);
    case Measure::local_correlation:
      return compare_locally(volume, comparison.extent, comparison.variant, fixed, moved, value, derivative);
    case Measure::mutual_information:
      return compare_information(volume, comparison.extent, comparison.variant, fixed, moved, value, derivative);
    case Measure::self_similarity:
      return compare_self_similarities(volume, comparison.extent, comparison.dilation, fixed, moved, value, derivative);
  }
}

}  // namespace keramorph::KERAMORPH_INSTRUCTIONS
