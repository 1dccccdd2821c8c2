"""A network camera: serve a moving ball at rtsp://127.0.0.1:PORT/line, 25 frames per second, until the process ends.

    /usr/bin/python3 tests/rtsp_server.py PORT

It needs the system's Python, because Debian has the package of it that binds GStreamer: apt-get install python3-gi
gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-base gstreamer1.0-plugins-good.
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

FRAMES = "video/x-raw,format=I420,width=72,height=64,framerate=25/1"

Gst.init(None)
server = GstRtspServer.RTSPServer(address="127.0.0.1", service=sys.argv[1])
camera = GstRtspServer.RTSPMediaFactory(shared=True)
camera.set_launch(f"( videotestsrc is-live=true pattern=ball ! {FRAMES} ! jpegenc ! rtpjpegpay name=pay0 )")
server.get_mount_points().add_factory("/line", camera)
server.attach(None)
print("serves", flush=True)
GLib.MainLoop().run()
