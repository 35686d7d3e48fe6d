"""A housekeeper that looks for lost workers and wake-ups every second instead of every 4 s."""

from worker.housekeeper import app, main

if __name__ == "__main__":
    app.REAP_SECONDS = 1.0
    main.main()
