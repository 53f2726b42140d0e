#!/bin/sh
# Starts nginx in the foreground with everything that it writes in one folder.
set -eu
nginx=$1 port=$2 body_bytes=$3 certificate=$4 key=$5 scratch=$6
head -c "$body_bytes" /dev/zero | tr '\0' x > "$scratch/body"
cat > "$scratch/nginx.conf" <<CONF
daemon off;
worker_processes 2;
error_log stderr notice;
pid $scratch/pid;
events { worker_connections 4096; }
http {
  access_log off;
  keepalive_requests 1000000000;
  client_body_temp_path $scratch/client;
  proxy_temp_path $scratch/proxy;
  fastcgi_temp_path $scratch/fastcgi;
  uwsgi_temp_path $scratch/uwsgi;
  scgi_temp_path $scratch/scgi;
  server {
    listen 127.0.0.1:$port ssl http2;
    ssl_certificate $certificate;
    ssl_certificate_key $key;
    root $scratch; location = / { rewrite ^ /body break; }
  }
}
CONF
# A probe on a library is hit by every process that has it: nginx gets a copy that is its alone.
cp "$(ldd "$nginx" | sed -n 's|.* \(/.*/libssl\.so\.3\) .*|\1|p')" "$scratch/libssl.so.3"
LD_LIBRARY_PATH="$scratch" exec "$nginx" -e stderr -c "$scratch/nginx.conf"
