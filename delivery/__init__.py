"""From a submitted notification to what each person received and did with it."""
