// Box sums of an image.
#include "boxes.hpp"

namespace keramorph::KERAMORPH_INSTRUCTIONS {
namespace filters {
namespace {

template <class T>
struct Voxels {
  const T* input;
  std::int64_t rows, row;

  template <class V>
  KERAMORPH_INLINE auto column(std::int64_t z, std::int64_t i) const {
    const T* at = input + z * rows * row + i;
    const std::int64_t step = row;
    return [at, step](std::int64_t y, V(&quantity)[1]) { quantity[0] = load<V>(at + y * step); };
  }
};

template <class T>
struct Keep {
  T* output;
  std::int64_t rows, row;

  void operator()(std::int64_t z, std::int64_t y, T* KERAMORPH_RESTRICT sums, std::int64_t) const {
    T* KERAMORPH_RESTRICT result = output + (z * rows + y) * row;
    for (std::int64_t i = 0; i < row; ++i) result[i] = sums[i];
  }
};

template <class T>
void sum_windows(const Volume& volume, const std::int64_t* size, const T* input, T* output) {
  const Boxes boxes = lay_out(volume, size);
  const std::int64_t rows = boxes.count[1], elements = boxes.count[0] * rows * boxes.row;
  for (std::int64_t entry = 0; entry < volume.batch; ++entry) {
    const Voxels<T> source{input + entry * elements, rows, boxes.row};
    const Keep<T> sink{output + entry * elements, rows, boxes.row};
    sum_boxes<T, 1>(boxes, source, sink);
  }
}

}  // namespace
}  // namespace filters

void window_sum(const Volume& volume, const std::int64_t* size, const void* input, void* output) {
  if (filters::is_empty(volume)) return;
  if (volume.type == Type::float64) {
    filters::sum_windows(volume, size, static_cast<const double*>(input), static_cast<double*>(output));
  } else {
    filters::sum_windows(volume, size, static_cast<const float*>(input), static_cast<float*>(output));
  }
}

}  // namespace keramorph::KERAMORPH_INSTRUCTIONS
