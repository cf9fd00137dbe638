// What TensorRT looks for in a plugin library. Nothing registers itself when the library is loaded, so that it needs no libnvinfer.

#include "operators.h"
#include "plugin.h"
#include "report.h"

#define SEGC_EXPORT extern "C" __attribute__((visibility("default")))

SEGC_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder* finder) { segc::set_logger_finder(finder); }

SEGC_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) {
    count = 0;
    return segc::guarded<nvinfer1::IPluginCreatorInterface* const*>("getCreators", nullptr, [&] {
        static segc::Creator selective_scan(std::make_unique<segc::Scan>(false));
        static segc::Creator cross_selective_scan(std::make_unique<segc::Scan>(true));
        static segc::Creator attention(std::make_unique<segc::Attention>());
        static nvinfer1::IPluginCreatorInterface* const creators[] = {&selective_scan, &cross_selective_scan, &attention};
        count = sizeof creators / sizeof *creators;
        return creators;
    });
}
