"""What Airflow adds to its own: alerts to people, and the page that shows the state of the loop."""
