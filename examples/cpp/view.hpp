// How an image becomes the network's input, and how maps get back to the image: lit_ad's View.
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

// The part of an image that is looked at.
struct Region {
  Box box;
  cv::Mat inside;             // CV_8UC1 of the box: 255 where it counts, 0 elsewhere; empty: all of it counts
  int height = 0, width = 0;  // that images must have; 0: any that hold the box

  cv::Mat cut(const cv::Mat& image) const;                   // (H, W) RGB -> (h, w), filled where it does not count
  cv::Mat resized(int height, int width) const;  // `inside` at another size; empty: all
  cv::Mat place(const cv::Mat& map, cv::Size) const;  // a map (h, w) CV_32F -> (H, W): around it, the lowest value
};

// What the network sees of an image.
struct Seen {
  cv::Mat pixels;  // (H, W) RGB
  Box box;         // that the image fills in it: what lies outside is padding, and what sticks out is cropped
};

struct View {
  int height = 0, width = 0;  // to resize to; 0: each image's own size
  bool pad = false;           // keep the aspect ratio, and fill up by reflection; or stretch
  Filter filter = Filter::bilinear;
  int crop = 0;               // side of the square that is seen of the middle; 0: all
  int multiple = 1;           // that the sides of the input are of
  int tile = 0, overlap = 0;  // sides in pixels; 0: no tiles
  int tile_batch = 1;         // tiles that are run at once
  Window window;
  std::optional<Region> region;

  explicit View(const nlohmann::json& view);
  Seen operator()(const cv::Mat& image) const;            // throws UserError: too small, too thin, of the wrong size
  cv::Size content(cv::Size image) const;                 // what becomes of an image of this size, without padding
  cv::Mat inside(cv::Size canvas, const Box& box) const;  // CV_8UC1: what counts of what is seen; empty: all
  // The map of an input, CV_32F (H, W) -> the image's own size, without padding.
  cv::Mat original_map(const cv::Mat& map, const Box& box, cv::Size image) const;
};

// The part of an image's content that lies in an input of this size.
Box visible(const Box& box, cv::Size canvas);

}  // namespace lit_ad
