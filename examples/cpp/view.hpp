// Turns an image into the network's input, and a map into one of the image's size: lit_ad's View.
#pragma once

#include <nlohmann/json.hpp>
#include <opencv2/core.hpp>
#include <optional>
#include <string>

#include "image.hpp"
#include "resize.hpp"

namespace lit_ad {

// Rows [top, bottom) and columns [left, right).
struct Box {
  int top = 0, left = 0, bottom = 0, right = 0;
  int height() const { return bottom - top; }
  int width() const { return right - left; }
  cv::Rect rect() const { return {left, top, width(), height()}; }
};

// A region of interest: the part of an image that is judged.
struct Region {
  Box box;
  cv::Mat inside;             // CV_8UC1 of the box: 255 for pixels that count, 0 for others; empty: all pixels count
  int height = 0, width = 0;  // the size that images must have; 0: any size that contains the box

  cv::Mat cut(const cv::Mat& image) const;  // (H, W) RGB -> (h, w); pixels that do not count get the colour FILL
  cv::Mat resize_inside(int height, int width) const;  // `inside` at another size; empty: all pixels count
  cv::Mat place(const cv::Mat& map, cv::Size) const;   // a map (h, w) CV_32F -> (H, W), with its minimum around it
};

// The network's input for an image.
struct Seen {
  cv::Mat pixels;  // (H, W) RGB
  Box box;         // the image's place in `pixels`. Pixels outside the box are padding; where it sticks out, the image
                   // is cropped
};

struct View {
  int height = 0, width = 0;  // the size to resize to; 0: the image's own size
  bool pad = false;           // true: keep the aspect ratio, and pad by reflection; false: stretch
  Filter filter = Filter::bilinear;
  int crop = 0;               // side of the square to cut out of the middle; 0: no crop
  int multiple = 1;           // the sides of the input are multiples of this
  int tile = 0, overlap = 0;  // side of a tile, and pixels that neighbours share; 0: no tiles
  int tile_batch = 1;         // tiles in one run of the network
  Window window;
  std::optional<Region> region;

  explicit View(const nlohmann::json& view);
  Seen operator()(const cv::Mat& image) const;  // throws UserError if the image is too small, thin, or of a wrong size
  cv::Size content(cv::Size image) const;       // the size of a resized image, without padding
  // CV_8UC1: the visible pixels that count; empty: all of them.
  cv::Mat inside(cv::Size canvas, const Box& box) const;
  // A map of the input, CV_32F (H, W) -> a map of the image's size, without padding.
  cv::Mat original_map(const cv::Mat& map, const Box& box, cv::Size image) const;
};

// The part of the image's box that lies inside an input of this size.
Box visible(const Box& box, cv::Size canvas);

}  // namespace lit_ad
