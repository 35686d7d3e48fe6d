#!/bin/sh
# Starts every container: applies the settings in .env that have changed since the container was created, then becomes the
# process. Under the name `imagegen` it is the command line, with the same settings. compose/container/changed_settings.py
# writes the files it reads, of which each container may read one; without them, as on Kubernetes, it changes nothing.

for file in /settings/api /settings/worker /settings/housekeeper ''; do
    [ -r "$file" ] && break
done

# changed NAME OLD NEW: the value in .env when the container was created, and the value now.
changed() {
    eval "value=\${$1-}"
    if [ "$value" = "$2" ]; then
        if [ -n "$3" ]; then export "$1=$3"; else unset "$1"; fi
    elif [ "$value" != "$3" ]; then
        echo "$1 has changed in .env, but this container was created with another value: docker compose up -d" >&2
    fi
}

# Ends this container, so that the engine restarts it, if the API was restarted and this container's settings have changed.
watch() {
    while sleep 2; do
        now=$(cat /settings/restarts/last 2>/dev/null)
        [ "$now" = "$last" ] && continue
        last=$now
        sleep 2
        [ "$(cat "$file")" = "$applied" ] && continue
        echo "The API was restarted and settings in .env have changed: restarting, too" >&2
        kill -TERM 1
        return
    done
}

if [ -n "$file" ]; then
    last=$(cat /settings/restarts/last 2>/dev/null)
    applied=$(cat "$file")
    eval "$applied"
fi
case $0 in
    */imagegen) exec python3 -m compose.cli "$@" ;;
esac
if [ -w /settings/restarts ]; then
    date +%s%N > /settings/restarts/last
elif [ -n "$file" ]; then
    # In a subshell that ends, so that it is not a child of the process.
    (watch &)
fi
exec "$@"
