"""Hours of use in minutes: does an engine that was busy end as it was before?"""
