// Loads a file that lit_ad has exported, and judges images: each gets a score, a map and a verdict.
#pragma once

#include <onnxruntime_cxx_api.h>

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "marking.hpp"
#include "view.hpp"

namespace lit_ad {

// A region of 8-connected anomalous pixels, in coordinates of the image.
struct FoundRegion {
  Box box;
  int area;    // pixels
  float peak;  // the map's maximum in the region
};

struct Verdict {
  double score;                              // higher is more anomalous
  std::optional<double> p_value, threshold;  // empty if the model has no held-out images
  std::optional<bool> anomalous;             // the same
  std::string category;              // the category of threshold and p-value; empty: all categories together
  cv::Mat map;                       // CV_32F of the image's size; empty if the method has no map
  std::vector<FoundRegion> regions;  // the highest peak first
  Seen seen;                         // the network's input
};

class Detector {
 public:
  // The network uses this many threads; 0: one for each core. Throws UserError, also if the file's own images get other
  // scores or maps here than from the checkpoint.
  Detector(const std::string& file, int threads);

  // Judges an image, as `read_image` returns it. If the category is empty, the threshold of all categories together
  // decides. Throws UserError.
  Verdict operator()(const cv::Mat& image, const std::string& category) const;

  // Throws UserError if there are thresholds, but none of this category.
  void check_category(const std::string& category) const;

  const View& view() const { return *view_; }

 private:
  struct Output {
    std::vector<float> scores;  // (n,)
    std::vector<cv::Mat> maps;  // n maps (H, W); empty if the method has no maps
  };
  struct Judgement {
    double score;
    cv::Mat map;  // of the network input's size
  };

  Output run(const std::vector<cv::Mat>& images) const;
  Judgement judge(const Seen& seen) const;
  Judgement judge_tiles(const Seen& seen) const;
  double score_map(const cv::Mat& map, const Box& box) const;
  double top_mean(const cv::Mat& map, const cv::Mat& inside) const;
  void check(const nlohmann::json& carried) const;
  void decide(Verdict& verdict, const cv::Size& image) const;

  Ort::Env environment_;
  mutable std::unique_ptr<Ort::Session> session_;  // its Run is not const, but may be called by several threads
  std::optional<View> view_;
  bool map_scored_ = true;  // whether the score is taken from the map; if not, the network gives it
  double top_ = 0;          // the score is the mean of this fraction of the map's highest pixels; 0: the maximum
  bool has_map_ = true;
  std::map<std::string, std::vector<double>> held_out_;  // scores of nominal images by category; "": of all together
  std::map<std::string, double> thresholds_;             // by category; "": of all together
  std::map<std::string, Marking> markings_;              // by category; empty if the method has no maps
};

}  // namespace lit_ad
