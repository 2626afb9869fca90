// Sampling, its derivative and the gradient to the coordinates: compiled once per instruction set.
#include "sampler.hpp"

#include "choose.hpp"
#include "threads.hpp"

namespace keramorph::KERAMORPH_INSTRUCTIONS {

#include "functions.inc"

namespace {

// What becomes of a block of values and slopes.
enum class Purpose { values, both, gradient };

struct Output {
  void* values;      // Purpose::values and both
  void* derivative;  // both: the derivative; gradient: the gradient to the coordinates
  const void* cotangent;
  bool plus_coordinates;
};

// Central differences of the image, one voxel to both sides, instead of the slope of the interpolant.
template <class T, class R, int D, int order>
inline void read_central_difference(const Sampler<T, R, D, order>& sampler, std::int64_t batch,
                                    const Position<R, D>& position, Vector<R> (&slope)[D]) {
  Vector<R> unused[D];
  for (int d = 0; d < D; ++d) {
    Position<R, D> after = position, before = position;
    after.index[d] += 1;
    before.index[d] -= 1;
    slope[d] = (sampler.template read<false>(batch, after, unused) -
                sampler.template read<false>(batch, before, unused)) * R(0.5);
  }
}

template <Purpose purpose, class T, class R, int D, int order>
inline void do_single_channel(const Sampler<T, R, D, order>& sampler, bool smooth, const Output& to, const R* coordinates,
                              const Rows<D>& rows, std::int64_t number) {
  constexpr bool derivative = purpose != Purpose::values;
  const Row<D> row = rows.at(number);
  const auto visit = [&](const Position<R, D>& position, std::int64_t first, int count)
                         __attribute__((always_inline)) {
    using V = Vector<R>;
    sampler.fetch_ahead(row.batch, position);
    V slope[D];
    V value{};
    if (derivative && smooth) {
      if (purpose == Purpose::both) value = sampler.template read<false>(row.batch, position, slope);
      read_central_difference(sampler, row.batch, position, slope);
    } else {
      value = sampler.template read<derivative>(row.batch, position, slope);
    }
    if constexpr (purpose == Purpose::values) {
      if (to.plus_coordinates) {
        for (int l = 0; l < count; ++l) value[l] += coordinates[first + l];
      }
    }
    if constexpr (purpose == Purpose::gradient) {
      const T* cotangent = static_cast<const T*>(to.cotangent) + first;
      V weight{};
      if (count == lanes) {
        weight = load_lifted<T, R>(cotangent);
      } else {
        for (int l = 0; l < count; ++l) weight[l] = lift(cotangent[l]);
      }
      for (int d = 0; d < D; ++d) slope[d] *= weight;
    } else {
      T* values = static_cast<T*>(to.values) + first;
      if (count == lanes) {
        store_lowered<T, R>(values, value);
      } else {
        for (int l = 0; l < count; ++l) values[l] = Lower<T>::from(value[l]);
      }
    }
    if constexpr (derivative) {
      R* slopes = static_cast<R*>(to.derivative) + first * D;
      if (count == lanes) {
        store_components<D>(slopes, slope);
      } else {
        for (int l = 0; l < count; ++l)
          for (int d = 0; d < D; ++d) slopes[l * D + d] = slope[d][l];
      }
    }
  };
  rows.template walk<R>(row, coordinates, visit);
}

// Values and slopes of up to four channels at one lane of a block that may lie across the edge.
template <bool derivative, class T, class R, int D, int order>
__attribute__((noinline)) Four<R> read_lane(const Sampler<T, R, D, order>& sampler, bool smooth, std::int64_t batch,
                                            const Position<R, D>& position, const Taps<D, order>& taps, int lane,
                                            int channel, Four<R> (&slope)[D]) {
  if (!derivative || !smooth) {
    return sampler.template read_channels<derivative>(batch, position, taps, lane, channel, slope);
  }
  Four<R> unused[D] = {};
  for (int d = 0; d < D; ++d) {
    Four<R> side[2];
    for (int k = 0; k < 2; ++k) {
      Position<R, D> moved = position;
      moved.index[d] += 2 * k - 1;
      Taps<D, order> around;
      find_taps<R, D, order>(moved, sampler.lattice(), around);
      side[k] = sampler.template read_channels<false>(batch, moved, around, lane, channel, unused);
    }
    slope[d] = (side[1] - side[0]) * R(0.5);
  }
  return sampler.template read_channels<false>(batch, position, taps, lane, channel, unused);
}

// Write what was read of up to four channels at one position.
template <Purpose purpose, class T, class R, int D>
KERAMORPH_INLINE void write_channels(const Output& to, const R* coordinates, std::int64_t place, int channels,
                                     int channel, bool last, Four<R> value, const Four<R> (&slope)[D], R (&total)[D]) {
  const int here = channels - channel < 4 ? channels - channel : 4;
  if constexpr (purpose == Purpose::gradient) {
    const T* cotangent = static_cast<const T*>(to.cotangent) + place * channels + channel;
    for (int c = 0; c < here; ++c)
      for (int d = 0; d < D; ++d) total[d] += lift(cotangent[c]) * slope[d][c];
    return;
  }
  if constexpr (purpose == Purpose::values) {
    if (to.plus_coordinates) {
      for (int c = 0; c < here; ++c) value[c] += coordinates[place * D + channel + c];
    }
  }
  T* values = static_cast<T*>(to.values) + place * channels + channel;
  if (std::is_same_v<T, R> && (here == 4 || !last)) {
    store(values, value);  // what is too much is the next position's, and overwritten with it
  } else {
    for (int c = 0; c < here; ++c) values[c] = Lower<T>::from(value[c]);
  }
  if constexpr (purpose == Purpose::both) {
    R* slopes = static_cast<R*>(to.derivative) + (place * channels + channel) * D;
    for (int c = 0; c < here; ++c)
      for (int d = 0; d < D; ++d) slopes[c * D + d] = slope[d][c];
  }
}

// Three channels inside the image, a group of positions at a time. A group reads and writes a little too much: what is
// the next positions', so that those must be there, in the same row. Gradients are not worth it: they wait for memory.
template <class T, class R, int D, int order>
KERAMORPH_INLINE void do_groups(const Sampler<T, R, D, order>& sampler, const Output& to, const R* coordinates,
                                const Position<R, D>& position, std::int64_t batch, const std::int32_t* offset,
                                std::int64_t first, int count) {
  alignas(64) R fraction[D][lanes];
  for (int d = 0; d < D; ++d) store(fraction[d], position.fraction[d]);
  for (int l = 0; l < count; l += group<R>) {
    const R* at[D];
    for (int d = 0; d < D; ++d) at[d] = fraction[d] + l;
    const Group<R> read = sampler.read_group_inside(batch, at, offset + l);
    Group<R> value = close_up(read, std::make_index_sequence<4 * group<R>>{});
    if (to.plus_coordinates) value += load<Group<R>>(coordinates + 3 * (first + l));
    store(static_cast<T*>(to.values) + 3 * (first + l), value);
  }
}

template <Purpose purpose, class T, class R, int D, int order>
inline void do_channels(const Sampler<T, R, D, order>& sampler, bool smooth, const Output& to, const R* coordinates,
                        const Rows<D>& rows, std::int64_t number) {
  constexpr bool derivative = purpose != Purpose::values;
  const Row<D> row = rows.at(number);
  const int channels = sampler.channels();
  const auto visit = [&](const Position<R, D>& position, std::int64_t first, int count)
                         __attribute__((always_inline)) {
    sampler.fetch_ahead(row.batch, position);
    alignas(64) std::int32_t offset[lanes];
    const bool inside = sampler.find_inside(position, offset) && !(derivative && smooth);
    Taps<D, order> taps;
    if (!inside) find_taps<R, D, order>(position, sampler.lattice(), taps);
    int done = 0;
    if constexpr (purpose == Purpose::values && order == 1 && std::is_same_v<T, R> && (group<R> > 1)) {
      // A group's store reaches this many positions too far; those must be the row's own, still to be written.
      constexpr std::int64_t beyond = (group<R> + 2) / 3;
      if (channels == 3 && inside) {
        const std::int64_t safe = row.first + row.count - first - beyond;
        done = safe < group<R> ? 0 : static_cast<int>(safe < count ? safe : count) / group<R> * group<R>;
        do_groups(sampler, to, coordinates, position, row.batch, offset, first, done);
      }
    }
    for (int l = done; l < count; ++l) {
      R total[D] = {};
      for (int channel = 0; channel < channels; channel += 4) {
        Four<R> slope[D] = {};
        Four<R> value;
        if (inside) {
          R fraction[D];
          for (int d = 0; d < D; ++d) fraction[d] = position.fraction[d][l];
          value = sampler.template read_channels_inside<derivative>(row.batch, fraction,
                                                                    std::int64_t{offset[l]} + channel, slope);
        } else {
          value = read_lane<derivative>(sampler, smooth, row.batch, position, taps, l, channel, slope);
        }
        write_channels<purpose, T, R, D>(to, coordinates, first + l, channels, channel, l + 1 == count, value, slope,
                                         total);
      }
      if constexpr (purpose == Purpose::gradient) {
        R* gradient = static_cast<R*>(to.derivative) + (first + l) * D;
        for (int d = 0; d < D; ++d) gradient[d] = total[d];
      }
    }
  };
  rows.template walk<R>(row, coordinates, visit);
}

template <Purpose purpose, class T, class R, int D, int order>
void do_rows(const Sampling& call, const void* image, const void* coordinates, const Output& to) {
  const Sampler<T, R, D, order> sampler(call, static_cast<const T*>(image));
  const Rows<D> rows(call);
  const R* from = static_cast<const R*>(coordinates);
  parallel(rows.count(), rows.grain(), [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t number = first; number < last; ++number) {
      if (call.channels == 1) {
        do_single_channel<purpose>(sampler, call.rule.smooth, to, from, rows, number);
      } else {
        do_channels<purpose>(sampler, call.rule.smooth, to, from, rows, number);
      }
    }
  });
}

template <class Element, class R, int D>
void copy_nearest(const Sampling& call, const void* image, const void* coordinates, void* values) {
  const Lattice<D> lattice(call);
  const Rows<D> rows(call);
  const std::int64_t channels = call.channels;
  Element fill;
  std::memcpy(&fill, &call.rule.fill_bits, sizeof(Element));
  parallel(rows.count(), rows.grain(), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t number = begin; number < end; ++number) {
      const Row<D> row = rows.at(number);
      const Element* from = static_cast<const Element*>(image) + row.batch * lattice.elements();
      const auto visit = [&](const Position<R, D>& position, std::int64_t first, int count)
                         __attribute__((always_inline)) {
        Taps<D, 0> taps;
        find_taps<R, D, 0>(position, lattice, taps);
        Index place{};
        for (int d = 0; d < D; ++d) place += taps.offset[d][0];
        for (int l = 0; l < count; ++l) {
          Element* to = static_cast<Element*>(values) + (first + l) * channels;
          for (std::int64_t c = 0; c < channels; ++c) to[c] = taps.inside[l] ? from[place[l] + c] : fill;
        }
      };
      rows.template walk<R>(row, static_cast<const R*>(coordinates), visit);
    }
  });
}

template <class R, int D>
void copy_nearest_of(const Sampling& call, const void* image, const void* coordinates, void* values) {
  switch (size_of(call.image_type)) {
    case 1: return copy_nearest<std::uint8_t, R, D>(call, image, coordinates, values);
    case 2: return copy_nearest<std::uint16_t, R, D>(call, image, coordinates, values);
    case 4: return copy_nearest<std::uint32_t, R, D>(call, image, coordinates, values);
    default: return copy_nearest<std::uint64_t, R, D>(call, image, coordinates, values);
  }
}

template <Purpose purpose>
void run(const Sampling& call, const void* image, const void* coordinates, const Output& to) {
  choose(call, [&](auto stored, auto real, auto ndim, auto order) {
    do_rows<purpose, typename decltype(stored)::type, typename decltype(real)::type, ndim.value, order.value>(
        call, image, coordinates, to);
  });
}

// The fill value as the bits of a floating type; of the bytes types the caller has given them.
Sampling with_fill_bits(Sampling call) {
  const auto set = [&](auto value) { std::memcpy(&call.rule.fill_bits, &value, sizeof(value)); };
  switch (call.image_type) {
    case Type::float16: set(Lower<Float16>::from(static_cast<float>(call.rule.fill))); break;
    case Type::bfloat16: set(Lower<BFloat16>::from(static_cast<float>(call.rule.fill))); break;
    case Type::float32: set(static_cast<float>(call.rule.fill)); break;
    case Type::float64: set(call.rule.fill); break;
    default: break;
  }
  return call;
}

}  // namespace

void sample(const Sampling& call, const void* image, const void* coordinates, void* values, bool plus_coordinates) {
  if (call.rule.order == 0) {
    const Sampling copy = with_fill_bits(call);
    choose_ndim(call.ndim, [&](auto ndim) {
      if (call.coordinate_type == Type::float64) {
        copy_nearest_of<double, ndim.value>(copy, image, coordinates, values);
      } else {
        copy_nearest_of<float, ndim.value>(copy, image, coordinates, values);
      }
    });
    return;
  }
  run<Purpose::values>(call, image, coordinates, {values, nullptr, nullptr, plus_coordinates});
}

void sample_with_derivative(const Sampling& call, const void* image, const void* coordinates, void* values,
                            void* derivative) {
  run<Purpose::both>(call, image, coordinates, {values, derivative, nullptr, false});
}

void pull_back(const Sampling& call, const void* image, const void* coordinates, const void* cotangent,
               void* gradient) {
  run<Purpose::gradient>(call, image, coordinates, {nullptr, gradient, cotangent, false});
}

}  // namespace keramorph::KERAMORPH_INSTRUCTIONS
