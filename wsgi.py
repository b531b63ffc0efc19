"""``gunicorn -c gunicorn.conf.py wsgi:application``"""

from gateway import create_app

application = create_app()
