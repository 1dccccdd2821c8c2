"""Write pictures and tables of judged images, and show them on dashboards."""
