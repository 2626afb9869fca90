// Shapes while a graph is built: those that follow from the inputs' shapes alone; Python sets the others.
//
// Only `tensorflow.cpp` includes this; everything is of internal linkage.
#pragma once

#include "tensorflow_interface.hpp"

namespace {

class OwnShape {
 public:
  OwnShape() : shape_(tf.NewShapeHandle()) {}
  ~OwnShape() { tf.DeleteShapeHandle(shape_); }
  OwnShape(const OwnShape&) = delete;
  OwnShape& operator=(const OwnShape&) = delete;
  operator Shape*() { return shape_; }

 private:
  Shape* shape_;
};

constexpr int64_t the_end = INT64_MAX;

template <int index>
void infer_same(Inference* inference, Status* status) {
  OwnShape shape;
  tf.ShapeInferenceContextGetInput(inference, index, shape, status);
  if (tf.GetCode(status) == 0) tf.ShapeInferenceContextSetOutput(inference, 0, shape, status);
}

// One value per entry of the batch, and for a second output the shape of the second image.
template <bool with_derivative>
void infer_comparison(Inference* inference, Status* status) {
  OwnShape moved, batch;
  const auto good = [&] { return tf.GetCode(status) == 0; };
  tf.ShapeInferenceContextGetInput(inference, 1, moved, status);
  if (good()) tf.ShapeInferenceContextSubshape(inference, moved, 0, 1, batch, status);
  if (good()) tf.ShapeInferenceContextSetOutput(inference, 0, batch, status);
  if (with_derivative && good()) tf.ShapeInferenceContextSetOutput(inference, 1, moved, status);
}

void infer_nothing(Inference* inference, Status* status) {
  tf.ShapeInferenceContextSetUnknownShape(inference, status);
}

// The field of the coordinates, the channels of the image, and for a second output the components of the coordinates.
template <bool with_derivative>
void infer_values(Inference* inference, Status* status) {
  OwnShape image, coordinates, field, channels, components, values, derivative;
  const auto good = [&] { return tf.GetCode(status) == 0; };
  tf.ShapeInferenceContextGetInput(inference, 0, image, status);
  if (good()) tf.ShapeInferenceContextGetInput(inference, 1, coordinates, status);
  if (good()) tf.ShapeInferenceContextSubshape(inference, coordinates, 0, -1, field, status);
  if (good()) tf.ShapeInferenceContextSubshape(inference, image, -1, the_end, channels, status);
  if (good()) tf.ShapeInferenceContextConcatenateShapes(inference, field, channels, values, status);
  if (good()) tf.ShapeInferenceContextSetOutput(inference, 0, values, status);
  if (!with_derivative) return;
  if (good()) tf.ShapeInferenceContextSubshape(inference, coordinates, -1, the_end, components, status);
  if (good()) tf.ShapeInferenceContextConcatenateShapes(inference, values, components, derivative, status);
  if (good()) tf.ShapeInferenceContextSetOutput(inference, 1, derivative, status);
}

}  // namespace
