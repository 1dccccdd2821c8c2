"""What is made of each judged image: pictures, tables, dashboards."""
