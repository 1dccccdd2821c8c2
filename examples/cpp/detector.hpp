// An exported file of lit_ad: an image in, a score, a map and a verdict out.
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

// Connected anomalous pixels (8-connected), in pixels of the image.
struct FoundRegion {
  Box box;
  int area;
  float peak;  // the map's maximum in it
};

struct Verdict {
  double score;                              // raw; higher is more anomalous
  std::optional<double> p_value, threshold;  // nothing of a model without held-out images
  std::optional<bool> anomalous;
  std::string category;              // whose threshold and p-value; empty: those of all together
  cv::Mat map;                       // CV_32F of the image's size; empty of methods without maps
  std::vector<FoundRegion> regions;  // the highest peak first
  Seen seen;                         // by the network
};

class Detector {
 public:
  // `threads` of the network; 0: as many as there are cores. Throws UserError, also where the runtime computes something
  // else of the file's own images than the checkpoint did that it was exported from.
  Detector(const std::string& file, int threads);

  // Judge an image of `read_image`. A category that is not known counts as all together. Throws UserError.
  Verdict operator()(const cv::Mat& image, const std::string& category) const;

  const View& view() const { return *view_; }

 private:
  struct Output {
    std::vector<float> scores;  // (n,)
    std::vector<cv::Mat> maps;  // n of (H, W); none of methods without maps
  };
  struct Judgement {
    double score;
    cv::Mat map;  // of the network's input
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
  bool map_scored_ = true;  // whether the score is the map's, or the network's own
  double top_ = 0;          // the fraction of a map's pixels, the highest, whose mean is the score; 0: the maximum
  bool has_map_ = true;
  std::map<std::string, std::vector<double>> held_out_;  // scores of nominal images by category; "": all
  std::map<std::string, double> thresholds_;             // by category; "": of all together
  std::map<std::string, Marking> markings_;              // nothing of methods without maps
};

}  // namespace lit_ad
