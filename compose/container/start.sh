#!/bin/sh
# Begins every container: brings into effect what has changed in .env since the container was made, then becomes the process.
# Under the name `imagegen` it is the command line, with the same settings. compose/container/changed_settings.py writes the files it
# reads, of which each container may read one; where there are none, as on Kubernetes, it changes nothing.

for mine in /settings/api /settings/worker /settings/housekeeper ''; do
    [ -r "$mine" ] && break
done

# changed NAME BEFORE NOW: what the .env said when the container was made, and what it says now.
changed() {
    eval "value=\${$1-}"
    if [ "$value" = "$2" ]; then
        if [ -n "$3" ]; then export "$1=$3"; else unset "$1"; fi
    elif [ "$value" != "$3" ]; then
        echo "$1 has changed in .env, but this container was made with another one: docker compose up -d" >&2
    fi
}

# Ends this container, for the engine to start it again, if the API was started and this one's settings have changed.
watch() {
    while sleep 2; do
        now=$(cat /settings/restarts/last 2>/dev/null)
        [ "$now" = "$last" ] && continue
        last=$now
        sleep 2
        [ "$(cat "$mine")" = "$taken" ] && continue
        echo "The API was started again and settings in .env have changed: starting again, too" >&2
        kill -TERM 1
        return
    done
}

if [ -n "$mine" ]; then
    last=$(cat /settings/restarts/last 2>/dev/null)
    taken=$(cat "$mine")
    eval "$taken"
fi
case $0 in
    */imagegen) exec python3 -m compose.cli "$@" ;;
esac
if [ -w /settings/restarts ]; then
    date +%s%N > /settings/restarts/last
elif [ -n "$mine" ]; then
    # Not a child of what this becomes.
    (watch &)
fi
exec "$@"
