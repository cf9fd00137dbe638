// The positions of a map as planes: one head of one image, and of it the positions whose indices agree modulo the dilation.
//
// Within a plane the dilation is 1. Planes are read once into rows of (channel, column) with margins, so that the kernels load neighbouring columns
// side by side and past both ends; results go back to (batch, height, width, heads, head_dim).
#pragma once

#include <algorithm>
#include <cstdint>

#include "convert.h"

namespace segc {

struct Strided {  // (batch, height, width, heads, head_dim), strides in elements
    const void* data;
    int64_t strides[5];
};

struct AttentionShape {
    int64_t batch, height, width, heads, dim;
    int64_t kernel[2], dilation[2];
};

struct Plane {
    int64_t batch, head, row_group, column_group;
    int64_t rows, columns;
};

// Who sees whom along one axis of `length` positions: the window of a query, or the queries that see a key. Both ends grow with the position.
struct Reach {
    int64_t length, kernel;
    bool from_keys;

    int64_t start(int64_t i) const { return std::min(std::max<int64_t>(i - kernel / 2, 0), length - kernel); }
    int64_t begin(int64_t i) const { return !from_keys ? start(i) : i < kernel ? 0 : i - kernel / 2; }
    int64_t end(int64_t i) const { return !from_keys ? start(i) + kernel : i >= length - kernel ? length : i + kernel / 2 + 1; }
};

template <class T> struct Layout {
    static constexpr int64_t W = Simd<T>::width;
    AttentionShape shape;
    int64_t rows, columns;  // of the largest plane
    int64_t left, stride;   // margin before column 0, and step from one channel to the next
    int64_t row_size, plane_size, planes;

    Layout(const AttentionShape& s, bool backward) : shape(s) {
        rows = (s.height + s.dilation[0] - 1) / s.dilation[0];
        columns = (s.width + s.dilation[1] - 1) / s.dilation[1];
        left = backward ? (s.kernel[1] - 1 + W - 1) / W * W : 0;
        stride = left + (columns + W - 1) / W * W + (s.kernel[1] + W - 1) / W * W;
        if (stride * sizeof(T) % 1024 == 0) stride += W;  // channels a multiple of the cache's page apart would share its sets
        row_size = s.dim * stride;
        plane_size = rows * row_size;
        planes = s.batch * s.heads * s.dilation[0] * s.dilation[1];
    }

    int64_t size() const { return planes * plane_size; }
    int64_t row_offset(int64_t plane, int64_t row) const { return plane * plane_size + row * row_size + left; }

    Plane plane(int64_t index) const {
        const int64_t column_group = index % shape.dilation[1], rest = index / shape.dilation[1];
        const int64_t row_group = rest % shape.dilation[0], image = rest / shape.dilation[0];
        return {image / shape.heads, image % shape.heads, row_group, column_group, members(0, row_group), members(1, column_group)};
    }

    int64_t members(int axis, int64_t group) const {
        const int64_t length = axis == 0 ? shape.height : shape.width;
        return (length - group + shape.dilation[axis] - 1) / shape.dilation[axis];
    }
};

// The first `count` of W elements `step` apart as a vector, zero after them.
template <class T, class In> inline Vec<T> load_some(const In* from, int64_t step, int64_t count) {
    constexpr int64_t W = Simd<T>::width;
    if (step == 1 && count >= W) return load_as<T>(from);
    In part[W] = {};
    for (int64_t i = 0; i < std::min(count, W); ++i) part[i] = from[i * step];
    return load_as<T>(part);
}

template <class T, class Out> inline void store_some(Out* to, Vec<T> v, int64_t count) {
    constexpr int64_t W = Simd<T>::width;
    if (count >= W) return store_as<T>(to, v);
    Out part[W];
    store_as<T>(part, v);
    std::copy_n(part, count, to);
}

// Columns of one row, `step` apart, as W of them a channel; zero from `columns` on. By squares of W x W where the channels lie side by side, the
// last of which overlaps the one before.
template <class T, class In> void read_columns_of(const In* from, int64_t step, int64_t channel_step, int64_t columns, int64_t dim, T factor, T* to, int64_t stride) {
    constexpr int64_t W = Simd<T>::width;
    if (channel_step != 1 || columns < W) {
        for (int64_t c = 0; c < dim; ++c) store<T>(to + c * stride, load_some<T>(from + c * channel_step, step, columns) * factor);
        return;
    }
    for (int64_t next = 0; next < dim; next += W) {
        const int64_t c = std::max<int64_t>(std::min(next, dim - W), 0);
        Vec<T> square[W];
        for (int64_t i = 0; i < W; ++i) square[i] = load_some<T>(from + i * step + c, 1, dim - c);
        transpose<T>(square);
        for (int64_t i = 0; i < std::min(W, dim); ++i) store<T>(to + (c + i) * stride, square[i] * factor);
    }
}

// The reverse, to columns whose channels lie side by side.
template <class T, class Out> void write_columns_of(const Vec<T>* channels, Vec<T> factor, Out* to, int64_t step, int64_t columns, int64_t dim) {
    constexpr int64_t W = Simd<T>::width;
    for (int64_t next = 0; next < dim; next += W) {
        const int64_t c = std::max<int64_t>(std::min(next, dim - W), 0);
        Vec<T> square[W] = {};
        for (int64_t i = 0; i < std::min(W, dim); ++i) square[i] = channels[c + i] * factor;
        transpose<T>(square);
        for (int64_t i = 0; i < std::min(W, columns); ++i) store_some<T>(to + i * step + c, square[i], dim - c);
    }
}

// The W columns from `column` on of a row of a plane, from the caller's tensor times `factor`, channels `stride` apart.
template <class T, class In>
void read_part(const Layout<T>& layout, const Plane& plane, const Strided& from, int64_t row, int64_t column, T factor, T* to, int64_t stride) {
    const AttentionShape& s = layout.shape;
    const int64_t position[] = {plane.batch, plane.row_group + row * s.dilation[0], plane.column_group + column * s.dilation[1], plane.head};
    const In* first = static_cast<const In*>(from.data);
    for (int axis = 0; axis < 4; ++axis) first += position[axis] * from.strides[axis];
    read_columns_of<T>(first, from.strides[2] * s.dilation[1], from.strides[4], plane.columns - column, s.dim, factor, to, stride);
}

// The same columns, one vector a channel times `factor`, to the caller's contiguous tensor.
template <class T, class Out>
void write_part(const Layout<T>& layout, const Plane& plane, int64_t row, int64_t column, const Vec<T>* channels, Vec<T> factor, void* to) {
    const AttentionShape& s = layout.shape;
    const int64_t y = plane.row_group + row * s.dilation[0], x = plane.column_group + column * s.dilation[1], pixel = s.heads * s.dim;
    Out* first = static_cast<Out*>(to) + ((plane.batch * s.height + y) * s.width + x) * pixel + plane.head * s.dim;
    write_columns_of<T>(channels, factor, first, s.dilation[1] * pixel, plane.columns - column, s.dim);
}

// Row `index` of all the rows of all the planes, with zeros in its margins, from the caller's tensor times `factor`.
template <class T, class In> void read_plane_row(const Layout<T>& layout, const Strided& from, int64_t index, T factor, T* planes) {
    const Plane plane = layout.plane(index / layout.rows);
    const int64_t row = index % layout.rows, end = (plane.columns + layout.W - 1) / layout.W * layout.W;
    if (row >= plane.rows) return;
    T* to = planes + layout.row_offset(index / layout.rows, row);
    for (int64_t x = 0; x < end; x += layout.W) read_part<T, In>(layout, plane, from, row, x, factor, to + x, layout.stride);
    for (int64_t c = 0; c < layout.shape.dim; ++c, to += layout.stride) {
        for (int64_t x = -layout.left; x < 0; x += layout.W) store<T>(to + x, Vec<T>{});
        for (int64_t x = end; x < layout.stride - layout.left; x += layout.W) store<T>(to + x, Vec<T>{});
    }
}

}  // namespace segc
