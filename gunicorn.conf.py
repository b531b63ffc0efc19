from gevent import monkey; monkey.patch_all()  # noqa: E702  (first of all: what is imported before is not patched)

from gateway.gunicorn_conf import *  # noqa: E402,F401,F403
